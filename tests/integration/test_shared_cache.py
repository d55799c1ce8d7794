"""Agents with empty pools that share a cache: what they take from it, what that costs, and when they do not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from buildstep.cache.remote.interface import Output, Record, Wanted
from buildstep.cache.shared import Shared, open_store
from buildstep.events import Bus, Event, Note
from buildstep.spec.shared_cache import SharedCache
from buildstep.system import locks
from buildstep.system.digest import sha256_bytes
from tests.integration.conftest import cache_dir, demand
from tests.integration.support import EPOCH, LIMIT, REPOSITORY, sha256
from tests.servers.fixtures import registry, weed

__all__ = ["registry", "weed"]

BASE = "mmdebstrap:bookworm?variant=apt"
PACKAGE = "netcat-openbsd"


class Built(NamedTuple):
    """A build as a child process. record: empty where it failed."""

    status: int
    said: str
    record: dict[str, Any]
    archive: str

    @property
    def counts(self) -> dict[str, int]:
        found: dict[str, int] = self.record["counts"]
        return found

    @property
    def states(self) -> dict[str, str]:
        return {row["name"]: row["state"] for row in self.record["steps"]}


PACKS_NOTHING = """\
import sys
from buildstep.cache import shared_lists
def pack(tree, below):
    raise AssertionError("a list was packed")
shared_lists.pack = pack
from buildstep.cli import main
sys.exit(main())
"""
"""Runs a command in which no list may be made ready to be shared."""


class Agents:
    """Machines of a CI: each with a pool of its own, all with one cache."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.url = f"dir:{top / 'cache'}"
        # A package whose file is in the pool is here in less time than is usually worth to be shared.
        self.manifest = {
            "name": "web", "version": "1.0", "os": "linux", "type": "other",
            "build": {
                "image": BASE, "packages": [PACKAGE], "order": "packages-first", "cache": {"min_cost": 0, "budget": LIMIT},
            },
        }  # fmt: skip
        (top / "proto/srv").mkdir(parents=True)
        (top / "proto/srv/page").write_text("hello\n")

    def build(
        self,
        name: str,
        *words: str,
        url: str = "",
        pool: str = "",
        driver: str = "",
        **environ: str,
    ) -> Built:
        """Build. words: more options; pool: another one than the agent's own; driver: a program that
        runs the command."""
        out = self.top / f"{name}-out"
        argv = [
            sys.executable, *(("-c", driver) if driver else ("-m", "buildstep")), "build",
            "-m", json.dumps(self.manifest), "-d", str(self.top / "proto"), "-o", str(out), "--pool", f"overlay:{pool or self.top / name}", *words,
            *([] if pool else ["--shared-cache", url or self.url]),
        ]  # fmt: skip
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SOURCE_DATE_EPOCH": str(EPOCH), **environ}
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=4 * LIMIT, check=False, env=env, cwd=self.top
        )
        record, archive = out / "web-1.0.buildrecord.json", out / "web-1.0.oci.tar"
        if done.returncode:
            return Built(done.returncode, done.stderr, {}, "")
        return Built(0, done.stderr, json.loads(record.read_bytes()), sha256(archive))


def copied(place: Agents, name: str, source: Path | None = None) -> Path:
    """A pool that has the base and the package files, and no layer."""
    pool, source = place.top / name, source or place.top / "one"
    pool.mkdir(mode=0o700)
    left_out = ("state/layers", "state/blobs", "state/shared", "state/artifacts", "layer")
    excluded = [f"--exclude=/{part}" for part in left_out]
    argv = ["rsync", "-aHAX", *excluded, f"{source}/", f"{pool}/"]  # not cp: most of a pool is left out
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    (pool / "layer").mkdir(mode=0o700)
    return pool


def with_base(place: Agents, name: str) -> None:
    """Give an agent a pool that has the base as its repositories have it now, and no layer.

    It is copied from one that outlives the session: mmdebstrap takes longer than all of the builds here.
    """
    kept = cache_dir() / "shared-pool-1"
    with locks.lock(cache_dir() / "shared-pool.lock"):
        made = place.build("kept", "--pull", pool=str(kept))
        assert made.status == 0, made.said
        pool = copied(place, name, kept)
    shutil.rmtree(pool / "state/resolved", ignore_errors=True)  # an answer of before is for no Release files


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Agents, Built]:
    """Agents, of which the first has built."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "rsync")
    found = Agents(tmp_path_factory.mktemp("agents"))
    with_base(found, "one")
    return found, found.build("one")


def test_a_fresh_agent_takes_all_from_the_cache(agents: tuple[Agents, Built]) -> None:
    """The same archive, byte for byte, without mmdebstrap and without apt; few requests, no byte too many."""
    place, first = agents
    assert first.status == 0, first.said
    # The answer of the repository counts for its Release files as well, unless they were asked for after it.
    assert re.search("uploaded to the shared cache: [56] records", first.said), first.said
    second = place.build("two")
    assert second.status == 0, second.said
    assert second.archive == first.archive
    assert (second.states["import"], second.states["packages"]) == ("reuse", "reuse")
    assert "mmdebstrap bookworm" not in second.said
    assert "shared (" in next(row["reason"] for row in second.record["steps"] if row["name"] == "packages")
    counts = second.counts
    assert counts["shared_hits"] == 2
    assert counts["shared_requests"] <= 40
    packed = sum(layer["size"] for layer in second.record["layers"][:2])
    assert packed <= counts["shared_bytes_in"] <= 1.05 * packed
    assert counts["files_read"] == 1, "the proto directory's"
    third = place.build("two")
    assert "up to date" in json.dumps(third.record["steps"]) or third.archive == first.archive
    assert "uploaded" not in third.said, "nothing is new"


def planned(place: Agents, name: str, **environ: str) -> dict[str, Any]:
    """What an agent with an empty pool would do, by the names of the steps."""
    shared = {"build": {**place.manifest["build"], "cache": {"shared": place.url}}}  # type: ignore[dict-item]
    argv = [
        sys.executable, "-m", "buildstep", "build", "--dry-run", "--json", "-m",
        json.dumps(place.manifest | shared), "-d", str(place.top / "proto"),
        "--pool", f"overlay:{place.top / name}",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SOURCE_DATE_EPOCH": str(EPOCH), **environ}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, cwd=place.top)
    assert done.returncode == 0, done.stderr
    assert not (place.top / name / "state").exists()
    return {row["name"]: row for row in json.loads(done.stdout)["steps"]}


def test_a_plan_says_what_it_would_take(agents: tuple[Agents, Built]) -> None:
    steps = planned(agents[0], "three")
    for name in ("import", "packages"):
        assert steps[name]["state"] == "reuse"
        assert steps[name]["reason"].startswith("shared (")


def test_a_record_that_does_not_count_is_told(agents: tuple[Agents, Built]) -> None:
    """The policy believes nobody: nothing is taken, and that is the reason."""
    policy = agents[0].top / "strict.toml"
    policy.write_text('format = 1\n[unsigned]\nscopes = ["branch/*"]\n')
    steps = planned(agents[0], "nine", BUILDSTEP_CACHE_POLICY=str(policy))
    assert steps["import"]["state"] == "run"
    assert "nobody has signed it" in steps["import"]["reason"]


def test_what_the_cache_is_known_to_have_is_not_made_ready_again(agents: tuple[Agents, Built]) -> None:
    place, _ = agents
    words = ("--shared-cache", place.url, "--compression", "zstd")
    built = place.build("other", *words, pool=str(place.top / "one"), driver=PACKS_NOTHING)
    assert built.status == 0, built.said
    assert built.states["packages"] == "reuse"


def test_what_is_damaged_is_named_and_made_here(agents: tuple[Agents, Built]) -> None:
    """All that the store has of bytes, a bit flipped in the middle. The image is the same."""
    place, first = agents
    hurt = place.top / "hurt"
    subprocess.run(["cp", "-a", "--reflink=auto", place.top / "cache", hurt], check=True)
    for path in (hurt / "cas").rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 4
            path.chmod(0o644)
            path.write_bytes(data)
    copied(place, "four")
    built = place.build("four", url=f"dir:{hurt}")
    assert built.status == 0, built.said
    assert "made here" in built.said
    assert built.states["packages"] == "run"
    assert built.record["tree_digest"] == first.record["tree_digest"]
    assert "uploaded to the shared cache" in built.said, "and what is sound in the place of what is not"
    copied(place, "after")
    assert place.build("after", url=f"dir:{hurt}").states["packages"] == "reuse"


@pytest.mark.parametrize("kind", ["weed", "registry"])
def test_a_build_by_another_store(
    agents: tuple[Agents, Built], kind: str, request: pytest.FixtureRequest
) -> None:
    """What one agent puts into S3 or a registry, signed, another takes all from: the same archive."""
    place, first = agents
    (place.top / "team.toml").write_text(
        'format = 1\n[[secret]]\nname = "team"\nenv = "BUILDSTEP_CACHE_SECRET"\nscopes = ["main"]\n'
    )
    environ = {
        "BUILDSTEP_CACHE_POLICY": str(place.top / "team.toml"),
        "BUILDSTEP_CACHE_SECRET": "a secret of the tests",
    }
    server: Any = request.getfixturevalue(kind)
    if kind == "registry":
        url = f"registry:{server.host}/whole"
    else:
        url = f"s3://{server.bucket}/whole"
        environ |= {**server.environ, "AWS_ENDPOINT_URL": server.endpoint}
    shutil.rmtree(place.top / "one/state/artifacts", ignore_errors=True)
    put = place.build("one", url=url, BUILDSTEP_CACHE_UPLOAD="1", **environ)
    assert re.search("uploaded to the shared cache: [56] records", put.said), put.said
    taken = place.build(f"by-{kind}", url=url, **environ)
    assert (taken.status, taken.archive) == (0, first.archive), taken.said
    assert taken.counts["shared_hits"] == 2
    assert taken.counts["shared_requests"] <= 60
    assert environ["BUILDSTEP_CACHE_SECRET"] not in taken.said + json.dumps(taken.record)


@contextmanager
def sick(kind: str, folder: Path | None = None) -> Iterator[str]:
    """The address of a store that is not well. folder: its records are these; only the bytes do not come."""
    if kind == "refused":
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{taken.getsockname()[1]}/cache"
        return
    if kind == "black hole":
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(100)
            yield f"http://127.0.0.1:{deaf.getsockname()[1]}/cache"
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if folder is not None and "/cas/" not in self.path:
                path = folder / self.path.removeprefix("/cache/")
                data = path.read_bytes() if path.is_file() else b""
                self.send_response(200 if data else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                return
            self.send_response(500 if kind == "500" else 200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(100 if kind == "slow" else 0):
                    self.wfile.write(b"x" * 1000)
                    time.sleep(1)

        do_HEAD = do_GET  # noqa: N815  (the name that the server calls)

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/cache"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("kind", ["refused", "black hole", "500", "slow"])
def test_a_store_that_is_not_well_costs_a_moment_and_a_note(agents: tuple[Agents, Built], kind: str) -> None:
    """A look-up ends when its time is over, whatever the server does; and a build goes on."""
    events: list[Event] = []
    with sick(kind) as url:
        settings = SharedCache(url=url, look_up=0.3)
        cache = Shared(settings, agents[0].top, {"HOME": "/nowhere"}, Bus(events.append), keep=False)
        begin = time.monotonic()
        assert cache.find([("base", "a" * 64), ("answer", "b" * 64)]) == {}
        cache.settled()
        assert cache.find([("base", "c" * 64)]) == {}, "and it is not asked again"
        cache.settled()
        seconds = time.monotonic() - begin
        cache.close()
    assert seconds < 0.3 + 0.5
    notes = [event.text for event in events if isinstance(event, Note)]
    assert len(notes) == 1, notes
    assert notes[0].startswith(f"the shared cache {url} is not used: ")


def test_a_build_goes_on_without_a_store_that_does_not_answer(agents: tuple[Agents, Built]) -> None:
    place, first = agents
    copied(place, "five")
    with sick("black hole") as url:
        built = place.build("five", url=url)
    assert built.status == 0, built.said
    assert built.record["tree_digest"] == first.record["tree_digest"]
    assert [row["text"] for row in built.record["notes"] if url in row["text"]] != []
    assert "uploaded" not in built.said


def test_what_is_demanded_is_an_error_before_anything_is_made(agents: tuple[Agents, Built]) -> None:
    place, _ = agents
    with sick("refused") as url:
        built = place.build("six", "--cache-required", url=url)
    assert built.status == 26
    assert "cannot be used" in built.said
    assert not (place.top / "six/image").exists() or not list((place.top / "six/image").iterdir())


def test_what_breaks_off_is_an_error_where_it_is_demanded(agents: tuple[Agents, Built]) -> None:
    """The records are there, and their bytes do not come: as early as with the base, and with the packages."""
    place, _ = agents
    (place.top / "all.toml").write_text('format = 1\n[unsigned]\nscopes = ["main"]\n')
    policy = {"BUILDSTEP_CACHE_POLICY": str(place.top / "all.toml")}
    copied(place, "ten")
    with sick("500", place.top / "cache") as url:
        for name in ("empty", "ten"):
            built = place.build(name, "--cache-required", url=url, **policy)
            assert built.status == 26, built.said
            assert "cannot be used" in built.said
            for part in ("build", "layer"):
                assert list((place.top / name).glob(f"{part}/*")) == []


def cache(place: Agents, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command about caches."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SOURCE_DATE_EPOCH": str(EPOCH), **environ}
    argv = [sys.executable, "-m", "buildstep", "cache", *words]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=4 * LIMIT, check=False, env=env, cwd=place.top
    )


def test_a_cache_is_warmed_and_measured_and_made_smaller(agents: tuple[Agents, Built]) -> None:
    """A job fills a new cache from a pool that has all; an agent takes it; the doctor and a prune see it."""
    place, first = agents
    url = f"dir:{place.top / 'warmed'}"
    (place.top / "m.json").write_text(json.dumps(place.manifest))
    warmed = cache(
        place, "warm", "m.json", "--pool", f"overlay:{place.top / 'one'}", "--shared-cache", url, "--json"
    )
    assert warmed.returncode == 0, warmed.stderr
    (row,) = json.loads(warmed.stdout)["warmed"]
    assert (row["records"], row["left_out"]) == (6, 0)
    again = cache(
        place, "warm", "m.json", "--pool", f"overlay:{place.top / 'one'}", "--shared-cache", url, "--json"
    )
    assert json.loads(again.stdout)["warmed"][0]["bytes"] < 20_000, "an answer of now at most"
    taken = place.build("seven", url=url)
    assert taken.archive == first.archive
    assert taken.counts["shared_hits"] == 2

    asked = cache(place, "doctor", "--shared-cache", url, "--write", "--json")
    assert asked.returncode == 0, asked.stdout
    found = {row["check"]: row for row in json.loads(asked.stdout)["checks"]}
    assert {row["result"] for row in found.values()} == {"ok"}
    assert found["bandwidth"]["value"] > 1e6
    assert 0 < found["latency"]["value"] < 1
    with sick("refused") as dead:
        asked = cache(place, "doctor", "--shared-cache", dead)
    assert asked.returncode == 26
    assert "bad   read" in asked.stdout

    size = (
        "--pool",
        f"overlay:{place.top / 'one'}",
        "--shared-cache",
        url,
        "--shared",
        "--max-size",
        "1M",
        "--json",
    )
    pruned = cache(place, "prune", *size)
    assert pruned.returncode == 0, pruned.stderr
    assert json.loads(pruned.stdout)["records"] > 0
    assert "--older-than" in cache(place, "prune", *size[:5]).stderr, "it is not emptied by mistake"


def test_an_upload_outlives_the_build_where_that_is_wanted(agents: tuple[Agents, Built]) -> None:
    place, _ = agents
    url = f"dir:{place.top / 'later'}"
    pool = place.top / "one"
    shutil.rmtree(pool / "state/artifacts")
    built = place.build("one", url=url, BUILDSTEP_CACHE_UPLOAD="detach")
    assert built.status == 0, built.said
    assert "uploaded" not in built.said
    end = time.monotonic() + LIMIT
    while len(list((place.top / "later").glob("ac/1/main/packages/*"))) < 1:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert place.build("eight", url=url, BUILDSTEP_CACHE_UPLOAD="0").states["packages"] == "reuse"


def test_a_pull_request_cannot_prepare_what_main_takes(tmp_path: Path) -> None:
    """Who may run a pull request's code may write to the store, and puts something there first, in every place
    that main looks into."""
    keys = {}
    for name in ("main", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
        keys[name] = " ".join((tmp_path / f"{name}.pub").read_text().split()[:2])
    policy = tmp_path / "policy.toml"
    rows = [
        f'[[key]]\nname = "main"\npublic = "{keys["main"]}"\nscopes = ["main"]',
        f'[[key]]\nname = "pr"\npublic = "{keys["other"]}"\nscopes = ["branch/*"]',
    ]
    policy.write_text("\n".join(["format = 1", *rows]))
    found = SharedCache(url=f"dir:{tmp_path}/cache", policy=str(policy))
    data = b"evil" * 5000
    output = Output(name="layer", digest=sha256_bytes(data), size=len(data))
    wanted: Wanted = ("packages", "a" * 64)
    record = Record(kind="packages", key="a" * 64, outputs=(output,))
    environ = {"HOME": "/nowhere"}
    for scope, key in (("main", None), ("main", "other"), ("branch/pr", "other"), ("branch/pr", None)):
        theirs = replace(found, scope=scope, key=str(tmp_path / key) if key else None)
        with open_store(theirs, None, environ, Bus()) as store:
            store.put(record, {"layer": data})
        with open_store(found, None, environ, Bus()) as store:
            assert store.find([wanted], 5.0) == {}, (scope, key)
    ours = replace(found, key=str(tmp_path / "main"))
    with open_store(ours, None, environ, Bus()) as store:
        good = b"good" * 5000
        mine = replace(record, outputs=(Output(name="layer", digest=sha256_bytes(good), size=len(good)),))
        assert store.put(mine, {"layer": good}), "what does not count is in nobody's way"
    with open_store(found, None, environ, Bus()) as store:
        (there,) = store.find([wanted], 5.0).values()
        assert (there.signer, there.outputs[0].digest) == ("main", sha256_bytes(good))
