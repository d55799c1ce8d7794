"""Agents with empty pools that share a cache: what they take from it, what that costs, and when they do not."""

from __future__ import annotations

import contextlib
import json
import os
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
from buildstep.system.digest import sha256_bytes
from tests.integration.conftest import demand
from tests.integration.support import EPOCH, LIMIT, REPOSITORY, sha256

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


class Agents:
    """Machines of a CI: each with a pool of its own, all with one cache."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.url = f"dir:{top / 'cache'}"
        self.manifest = {
            "name": "web", "version": "1.0", "os": "linux", "type": "other",
            "build": {"image": BASE, "packages": [PACKAGE], "order": "packages-first"},
        }  # fmt: skip
        (top / "proto/srv").mkdir(parents=True)
        (top / "proto/srv/page").write_text("hello\n")

    def build(self, name: str, *words: str, url: str = "", **environ: str) -> Built:
        out = self.top / f"{name}-out"
        argv = [
            sys.executable, "-m", "buildstep", "build", "-m", json.dumps(self.manifest), "-d", str(self.top / "proto"),
            "-o", str(out), "--pool", f"overlay:{self.top / name}", "--shared-cache", url or self.url, *words,
        ]  # fmt: skip
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SOURCE_DATE_EPOCH": str(EPOCH), **environ}
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=4 * LIMIT, check=False, env=env, cwd=self.top
        )
        record, archive = out / "web-1.0.buildrecord.json", out / "web-1.0.oci.tar"
        if done.returncode:
            return Built(done.returncode, done.stderr, {}, "")
        return Built(0, done.stderr, json.loads(record.read_bytes()), sha256(archive))


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Agents, Built]:
    """Agents, of which the first has built."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "rsync")
    found = Agents(tmp_path_factory.mktemp("agents"))
    return found, found.build("one")


def test_a_fresh_agent_takes_all_from_the_cache(agents: tuple[Agents, Built]) -> None:
    """The same archive, byte for byte, without mmdebstrap and without apt; few requests, no byte too many."""
    place, first = agents
    assert first.status == 0, first.said
    assert "uploaded to the shared cache: 6 records" in first.said
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


def test_a_plan_says_what_it_would_take(agents: tuple[Agents, Built]) -> None:
    place, _ = agents
    argv = [sys.executable, "-m", "buildstep", "build", "--dry-run", "--json"]
    manifest = {
        "name": "web", "version": "1.0", "os": "linux", "type": "other",
        "build": {
            "image": BASE, "packages": [PACKAGE], "order": "packages-first", "cache": {"shared": place.url},
        },
    }  # fmt: skip
    argv += [
        "-m",
        json.dumps(manifest),
        "-d",
        str(place.top / "proto"),
        "--pool",
        f"overlay:{place.top / 'three'}",
    ]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SOURCE_DATE_EPOCH": str(EPOCH)}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, cwd=place.top)
    assert done.returncode == 0, done.stderr
    steps = {row["name"]: row for row in json.loads(done.stdout)["steps"]}
    for name in ("import", "packages"):
        assert steps[name]["state"] == "reuse"
        assert steps[name]["reason"].startswith("shared (")
    assert not (place.top / "three/state").exists()


def copied(place: Agents, name: str) -> Path:
    """A pool that has the base and the package files, and no layer."""
    pool = place.top / name
    subprocess.run(["cp", "-a", "--reflink=auto", place.top / "one", pool], check=True)
    for part in ("state/layers", "state/shared", "state/artifacts", "layer"):
        shutil.rmtree(pool / part, ignore_errors=True)
    (pool / "layer").mkdir(mode=0o700)
    return pool


def test_what_is_damaged_is_named_and_made_here(agents: tuple[Agents, Built]) -> None:
    """All that the store has of bytes, a bit flipped in the middle. The image is the same."""
    place, first = agents
    hurt = place.top / "hurt"
    shutil.copytree(place.top / "cache", hurt)
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


@contextmanager
def sick(kind: str) -> Iterator[str]:
    """The address of a store that is not well."""
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
