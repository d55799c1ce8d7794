"""The image store on real ZFS pools: images of repositories and files, with what they stand on, as streams."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import ImageError
from buildstep.events import Bus
from buildstep.images.gc import collect
from buildstep.images.importing import Importer
from buildstep.images.store import ImageStore
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.interface import Backend, Kind
from buildstep.pool.journal import open_journal
from buildstep.pool.zfs import ZfsBackend
from buildstep.spec.config import Config, SourceConfig
from buildstep.spec.imgmanifest import uuid_of
from buildstep.tree.entry import tree_digest
from tests.integration.pools import IN_GUEST, change, command, fill, full

pytestmark = pytest.mark.skipif(not IN_GUEST, reason="runs in the ZFS guest")

FIRST, SECOND = "zones/agent/data/images-a", "zones/agent/data/images-b"
BASE, TOP = uuid_of("a base for the store"), uuid_of("what stands on it")


@pytest.fixture
def pools() -> Iterator[tuple[ZfsBackend, ZfsBackend]]:
    command("zfs", "create", FIRST)
    command("zfs", "create", SECOND)
    try:
        yield ZfsBackend(FIRST), ZfsBackend(SECOND)
    finally:
        for name in (FIRST, SECOND):
            command("zfs", "destroy", "-R", "-f", name)


def put(site: Path, uuid: str, name: str, data: bytes, **fields: Any) -> dict[str, Any]:
    """An image in a directory that is laid out as a repository."""
    packed = gzip.compress(data, mtime=0)
    manifest = {
        "v": 2, "uuid": uuid, "name": name, "version": "1", "type": "zone-dataset", "os": "smartos",
        "files": [{"size": len(packed), "compression": "gzip", "sha1": hashlib.sha1(packed).hexdigest()}],
        **fields,
    }  # fmt: skip
    folder = site / "images" / uuid
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(packed)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (site / name / "1").mkdir(parents=True)
    (site / name / "1/index.json").write_text(json.dumps({"uuid": uuid}))
    return manifest


def send(*argv: str) -> bytes:
    import subprocess

    return subprocess.run(["zfs", "send", *argv], check=True, capture_output=True).stdout


@pytest.fixture
def site(pools: tuple[ZfsBackend, ZfsBackend], tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A repository with an image and another that stands on it; and the digests of their trees."""
    first, _ = pools
    dataset = first.create("one")
    fill(dataset.path)
    digests = {BASE: tree_digest(full(dataset.path))}
    first.snapshot(dataset, Kind.IMAGE, BASE)
    dataset = first.clone(Kind.IMAGE, BASE, "two")
    change(dataset.path, 5)
    digests[TOP] = tree_digest(full(dataset.path))
    first.snapshot(dataset, Kind.IMAGE, TOP)
    base, top = (f"{FIRST}/{uuid}@final" for uuid in (BASE, TOP))
    put(tmp_path / "site", BASE, "base", send(base))
    put(tmp_path / "site", TOP, "top", send("-i", base, top), origin=BASE)
    return tmp_path / "site", digests


def store_on(backend: Backend, site: Path) -> ImageStore:
    config = Config(sources=(SourceConfig(url=f"dir:{site}"),))
    return ImageStore(backend, bus=Bus(), environ={}, config=config)


def names(dataset: str) -> set[str]:
    rows = command("zfs", "list", "-H", "-r", "-t", "all", "-o", "name", dataset).split()
    return {row.removeprefix(f"{dataset}/") for row in rows} - {dataset, "buildstep"}


def test_with_what_it_stands_on(
    pools: tuple[ZfsBackend, ZfsBackend], site: tuple[Path, dict[str, str]]
) -> None:
    second = pools[1]
    store, digests = store_on(second, site[0]), site[1]
    assert "with 1 that it is based on" in store.foresee("top@1")
    with open_journal(second.state, "import") as journal:
        record, present = Importer(store, journal).ensure("top@1")
        assert (record.uuid, record.origin, present) == (TOP, BASE, False)
        assert Importer(store, journal).ensure(TOP)[1]
    assert {row.uuid: row.tree_digest for row in store.records()} == digests
    for row in store.records():
        store.verify(row)
    assert names(SECOND) == {name for uuid in (BASE, TOP) for name in (uuid, f"{uuid}@final")}
    assert list((second.state / "downloads").rglob("*.file*")) == []
    with pytest.raises(ImageError, match=f"is the origin of {TOP}"):
        store.delete(store.get(BASE))
    assert [row.uuid for row in collect(store, unused_seconds=0) if row.removed] == [TOP, BASE]
    assert names(SECOND) == set()


def test_from_a_file_with_its_manifest(
    pools: tuple[ZfsBackend, ZfsBackend], site: tuple[Path, dict[str, str]]
) -> None:
    second, folder = pools[1], site[0] / "images" / TOP
    store = store_on(second, site[0])
    with open_journal(second.state, "import") as journal:
        record, _ = Importer(store, journal).import_file(folder / "file", folder / "manifest.json")
        assert record.tree_digest == site[1][TOP]
        assert store.get(BASE).tree_digest == site[1][BASE], "its origin came from the repository"
        locator = f"zfs:{folder / 'file'},{folder / 'manifest.json'}"
        same, _ = Importer(store, journal).ensure(locator)
        assert same.uuid == record.uuid
        assert Importer(store, journal).ensure(locator) == (same, True), "the same image by another name"


def test_a_bad_stream_leaves_nothing(
    pools: tuple[ZfsBackend, ZfsBackend], site: tuple[Path, dict[str, str]]
) -> None:
    second, folder = pools[1], site[0] / "images" / BASE
    data = gzip.decompress((folder / "file").read_bytes())
    wrong = bytearray(data)
    wrong[len(wrong) // 2] ^= 1
    manifest = json.loads((folder / "manifest.json").read_text())
    for bad in (bytes(wrong), data[: len(data) // 2]):
        packed = gzip.compress(bad)
        entry = {"size": len(packed), "compression": "gzip", "sha1": hashlib.sha1(packed).hexdigest()}
        (folder / "file").write_bytes(packed)
        (folder / "manifest.json").write_text(json.dumps({**manifest, "files": [entry]}))
        store = store_on(second, site[0])
        with open_journal(second.state, "import") as journal, pytest.raises(ImageError):
            Importer(store, journal).ensure(BASE)
        assert names(SECOND) == set()
        assert list((second.state / "downloads").rglob("*.file*")) == []


def test_another_pool_says_what_it_would_need(site: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    backend = DirectoryBackend(str(tmp_path / "pool"))
    store = store_on(backend, site[0])
    with open_journal(backend.state, "import") as journal, pytest.raises(ImageError, match="only a zfs pool"):
        Importer(store, journal).ensure("base@1")
