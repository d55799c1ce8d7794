"""The shared cache on real servers: S3 that obeys conditions and S3 that does not, a registry, web servers."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from buildstep.cache.remote.interface import Gone, Output, Record, Settings
from buildstep.cache.remote.names import shared_key
from buildstep.cache.remote.store import SharedStore
from buildstep.events import Bus
from buildstep.files import open_storage
from tests.servers.fixtures import Registry, S3Store, rclone, registry, weed
from tests.servers.processes import child, ended
from tests.servers.stores import rclone_serving, serving
from tests.unit.cache.remote.layers import tree, write_layer

__all__ = ["rclone", "registry", "weed"]

ACCEPT = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
KINDS = ["dir", "weed", "rclone", "registry"]


@dataclass(frozen=True)
class Place:
    """An empty store. policy: that reads it; conditional: whether of two writers at one moment one wins."""

    url: str
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    conditional: bool = True

    def open(self, state: str = "", **settings: object) -> SharedStore:
        """state: the name of an agent's; each has its own, an empty one keeps nothing."""
        where = self.folder / "agents" / state if state else None
        given: dict[str, object] = {"policy": self.folder / "policy.toml", "state": where, **settings}
        environ = {**self.environ, "BUILDSTEP_CACHE_SECRET": "a secret of the tests"}
        return SharedStore.open(Settings(url=self.url, **given), environ, Bus())  # type: ignore[arg-type]


POLICY = """
format = 1
[[secret]]
name = "team"
env = "BUILDSTEP_CACHE_SECRET"
scopes = ["*"]
"""


def place_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    (folder / "policy.toml").write_text(POLICY)
    name = os.urandom(4).hex()
    if kind == "dir":
        return Place(f"dir:{folder}/store", folder)
    if kind == "registry":
        host = request.getfixturevalue("registry").host
        return Place(f"registry:{host}/cache-{name}", folder, conditional=False)
    found: S3Store = request.getfixturevalue(kind)
    environ = {**found.environ, "AWS_ENDPOINT_URL_S3": found.endpoint}
    return Place(f"s3://{found.bucket}/{name}", folder, environ, conditional=found.folder is None)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request.param, request, tmp_path)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Output]]:
    """A layer of packages, and a newer version of it with one of them updated."""
    top = tmp_path_factory.mktemp("layers")
    old, new = write_layer(top / "old", tree(30)), write_layer(top / "new", tree(30, updated=11))
    return top / "old", top / "new", [old, new]


def record(number: int, *outputs: Output, slot: str = "") -> Record:
    key = shared_key("packages", {"number": number})
    return Record(
        kind="packages", key=key, inputs={"number": number}, outputs=outputs, seconds=9, slot=slot,
        made_at=1e9 + number,
    )  # fmt: skip


def test_put_find_fetch(place: Place, layers: tuple[Path, Path, list[Output]], tmp_path: Path) -> None:
    old, new, outputs = layers
    with place.open("writer") as store:
        assert store.put(record(1, outputs[0], slot="web"), {"layer": old}), store.troubles
        assert store.put(record(2, outputs[1], slot="web"), {"layer": new}, seeds=[old]), store.troubles
        assert store.facts.bytes_out < 1.2 * outputs[0].size
    with place.open("fresh") as store:
        found = store.find([record(1).wanted, record(2).wanted, record(3).wanted], deadline=5)
        assert [len(found), store.trouble] == [2, ""]
        assert {one.signer for one in found.values()} == {"team"}
        one = found[record(2).wanted].outputs[0]
        before = store.facts.requests
        store.fetch(one, tmp_path / "layer")
        assert (tmp_path / "layer").read_bytes() == new.read_bytes()
        assert store.facts.bytes_in < 1.05 * one.size + 10_000
        assert store.facts.requests - before <= 20
        store.mark_used()
        assert store.trouble == ""
    with place.open("has-old") as store:
        one = store.find([record(2).wanted], deadline=5)[record(2).wanted].outputs[0]
        store.fetch(one, tmp_path / "layer2", seeds=[old])
        assert (tmp_path / "layer2").read_bytes() == new.read_bytes()
        assert store.facts.bytes_in < 0.1 * one.size
    with place.open("fresh") as store:
        # A second build of the same agent asks nothing, and puts nothing again.
        assert len(store.find([record(1).wanted, record(2).wanted])) == 2
        assert store.facts.requests == 0
        store.put(record(2, outputs[1], slot="web"), {"layer": new})
        assert store.facts.bytes_out < 1000


@pytest.mark.parametrize("server", ["rclone", "python"])
def test_what_is_written_to_a_directory_is_read_behind_a_web_server(
    server: str, request: pytest.FixtureRequest, layers: tuple[Path, Path, list[Output]], tmp_path: Path
) -> None:
    written = place_of("dir", request, tmp_path)
    with written.open() as store:
        assert store.put(record(1, layers[2][0]), {"layer": layers[0]})
    make = rclone_serving(tmp_path / "store", tmp_path) if server == "rclone" else serving(tmp_path / "store")
    with make as url, Place(url, tmp_path).open() as store:
        found = store.find([record(1).wanted], deadline=5)[record(1).wanted]
        store.fetch(found.outputs[0], tmp_path / "layer")
        assert (tmp_path / "layer").read_bytes() == layers[0].read_bytes()
        assert not store.put(record(2, layers[2][1]), {"layer": layers[1]})
        assert "cannot be written to" in store.trouble


def test_a_copy_of_a_store_is_a_store(
    request: pytest.FixtureRequest, layers: tuple[Path, Path, list[Output]], tmp_path: Path
) -> None:
    """From a directory by rsync, and into a bucket as a tool for buckets does it."""
    written = place_of("dir", request, tmp_path)
    with written.open() as store:
        assert store.put(record(1, layers[2][0]), {"layer": layers[0]})
    subprocess.run(["rsync", "-a", f"{tmp_path}/store/", f"{tmp_path}/copy/"], check=True, timeout=60)
    bucket = place_of("weed", request, tmp_path)
    target = open_storage(bucket.url, environ=bucket.environ)
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            target.write(path.relative_to(tmp_path / "store").as_posix(), path)
    for number, copy in enumerate([Place(f"dir:{tmp_path}/copy", tmp_path), bucket]):
        with copy.open() as store:
            records = store.find([record(1).wanted], deadline=5)
            assert records, (copy.url, store.trouble)
            store.fetch(records[record(1).wanted].outputs[0], tmp_path / f"layer{number}")


def test_two_writers_of_one_key(
    place: Place, layers: tuple[Path, Path, list[Output]], tmp_path: Path
) -> None:
    """They have made different things of the same inputs; readers see one of them, whole."""
    for round_ in range(4):
        ready = threading.Barrier(2)
        results: list[object] = []

        def write(
            which: int,
            number: int = round_,
            ready: threading.Barrier = ready,
            results: list[object] = results,
        ) -> None:
            with place.open() as store:
                ready.wait()
                done = store.put(record(number, layers[2][which]), {"layer": layers[:2][which]})
                results.append(done or store.troubles)

        threads = [threading.Thread(target=write, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        seen = []
        while any(thread.is_alive() for thread in threads):
            with place.open() as store:
                seen += [found.outputs[0].digest for found in store.find([record(round_).wanted], 5).values()]
                # rclone answers 500 for an object that is being written.
                assert store.trouble == "" or (not place.conditional and ": 500" in store.trouble)
        for thread in threads:
            thread.join()
        with place.open() as store:
            found = store.find([record(round_).wanted], deadline=5)[record(round_).wanted]
            store.fetch(found.outputs[0], tmp_path / f"{round_}")
            seen.append(found.outputs[0].digest)
        assert results == [True, True]
        if place.conditional:
            assert len(set(seen)) == 1


def test_an_upload_that_is_killed_leaves_nothing_that_a_reader_takes(
    request: pytest.FixtureRequest, layers: tuple[Path, Path, list[Output]], tmp_path: Path
) -> None:
    """At fifty moments: a reader finds nothing, or all of it; and the next upload completes it."""
    for kind, rounds in (("dir", 30), ("weed", 20)):
        (tmp_path / kind).mkdir()
        place = place_of(kind, request, tmp_path / kind)
        _upload(place, 1000)  # also makes what a first one makes
        whole = _upload(place, 1001)
        states = []
        for number in range(rounds):
            moment = whole * (0.02 + 1.2 * number / rounds)
            pid = child(functools.partial(_upload, place, number, moment))
            assert ended(pid) in (0, -signal.SIGALRM)
            with place.open() as store:
                found = store.find([record(number).wanted], deadline=5)
                assert store.trouble == ""
                states.append(bool(found))
                for one in found.values():
                    store.fetch(one.outputs[0], tmp_path / f"{kind}-{number}")
                    (tmp_path / f"{kind}-{number}").unlink()
        assert not all(states)
        _upload(place, states.index(False))
        with place.open() as store:
            assert store.find([record(states.index(False)).wanted], deadline=5)


def _upload(place: Place, number: int, killed_after: float = 0.0) -> float:
    """Put something new, and return how long that took. The process is killed after so many seconds."""
    path = place.folder / f"made-{number}"
    output = write_layer(path, [random.Random(number).randbytes(1 << 20) for _ in range(2)])
    with place.open() as store:
        begun = time.monotonic()
        if killed_after:
            signal.setitimer(signal.ITIMER_REAL, killed_after)  # nobody handles it: it kills as SIGKILL does
        assert store.put(record(number, output), {"layer": path}), store.troubles
        taken = time.monotonic() - begun
    path.unlink()
    return taken


@pytest.mark.parametrize("kind", ["dir", "weed"])
def test_prune_while_others_read(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Five read without a pause while a store is made smaller: none of them fails, and none reads wrong bytes."""
    place = place_of(kind, request, tmp_path)
    sizes, contents = [], {}
    with place.open("writer") as store:
        for number in range(12):
            data = random.Random(number).randbytes(1 << 20)
            contents[number] = data
            path = tmp_path / f"file{number}"
            path.write_bytes(data)
            output = Output(name="file", digest=_sha256(data), size=len(data))
            sizes.append(len(data))
            assert store.put(record(number, output), {"file": path}), store.troubles
    failures: list[str] = []
    reads = [0] * 5
    done = threading.Event()

    def read(reader: int) -> None:
        state = random.Random(reader)
        while not done.is_set():
            number = state.randrange(12)
            target = tmp_path / f"read-{reader}"
            with place.open() as store:
                for found in store.find([record(number).wanted], deadline=5).values():
                    try:
                        store.fetch(found.outputs[0], target)
                    except Gone as error:
                        failures.append(f"{error}")
                        continue
                    reads[reader] += target.read_bytes() == contents[number]
                    target.unlink()
                if store.trouble:
                    failures.append(store.trouble)

    threads = [threading.Thread(target=read, args=(reader,)) for reader in range(5)]
    for thread in threads:
        thread.start()
    limit = 5 << 20
    try:
        with place.open() as store:
            first = store.prune(max_size=limit)
            # Bytes stay for a day. Here it is over after some seconds, which readers need less of.
            time.sleep(2)
            second = store.prune(max_size=limit, grace=1.5)
            time.sleep(0.5)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert all(reads)
    assert (first.records, first.blobs, second.blobs) == (7, 0, 7)
    with place.open() as store:
        left = sum(item.size for item in store._backend.storage.list("cas/"))
        assert left <= 1.1 * limit
        assert len(store.find([record(number).wanted for number in range(12)], deadline=5)) == 5


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_a_registry_has_one_tag_and_artifacts(
    registry: Registry,
    request: pytest.FixtureRequest,
    layers: tuple[Path, Path, list[Output]],
    tmp_path: Path,
) -> None:
    place = place_of("registry", request, tmp_path)
    with place.open() as store:
        for number in range(3):
            assert store.put(record(number, layers[2][0]), {"layer": layers[0]}), store.troubles
    base = f"http://{registry.host}/v2/{place.url.partition('/')[2]}"

    def get(path: str) -> dict[str, object]:
        request = urllib.request.Request(f"{base}/{path}", headers={"Accept": ACCEPT})
        with urllib.request.urlopen(request, timeout=10) as reply:
            found: dict[str, object] = json.load(reply)
            return found

    assert get("tags/list")["tags"] == ["buildstep-cache-1-main"]
    index = get("manifests/buildstep-cache-1-main")
    assert index["artifactType"] == "application/vnd.buildstep.cache.record.v1"
    rows = index["manifests"]
    assert isinstance(rows, list)
    assert len(rows) == 3
    manifest = get(f"manifests/{rows[0]['digest']}")
    assert manifest["artifactType"] == "application/vnd.buildstep.cache.record.v1"
    blobs = manifest["layers"]
    assert isinstance(blobs, list)
    assert sum(blob["size"] for blob in blobs) > layers[2][0].size
    with place.open() as store:
        assert store.prune(older_than=0).records == 3
        assert get("manifests/buildstep-cache-1-main")["manifests"] == []
        assert store.find([record(0).wanted], deadline=5) == {}
        assert store.trouble == ""


def test_reading_waits_for_no_library(
    weed: S3Store, request: pytest.FixtureRequest, layers: tuple[Path, Path, list[Output]], tmp_path: Path
) -> None:
    place = place_of("weed", request, tmp_path)
    with place.open() as store:
        assert store.put(record(1, layers[2][0]), {"layer": layers[0]})
    program = f"""
import os, sys
from pathlib import Path
from buildstep.cache.remote.interface import Settings
from buildstep.cache.remote.store import SharedStore
from buildstep.events import Bus
from buildstep.files import open_storage
settings = Settings(url={place.url!r}, policy=Path({str(tmp_path / "policy.toml")!r}))
with SharedStore.open(settings, os.environ, Bus()) as store:
    found = store.find([{record(1).wanted!r}], deadline=5)
    store.fetch(found[{record(1).wanted!r}].outputs[0], Path({str(tmp_path / "layer")!r}))
print([name for name in ("boto3", "botocore", "requests", "urllib3", "cryptography") if name in sys.modules])
"""
    environ = {**os.environ, **place.environ, "BUILDSTEP_CACHE_SECRET": "a secret of the tests"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
