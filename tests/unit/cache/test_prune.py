"""What a pool keeps: listed, removed by limits and age, verified; nothing goes that a build uses."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from buildstep.cache import blob_files, prune
from buildstep.cache.layers import LayerCache, LayerRecord
from buildstep.cache.prune import Limits
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.interface import Kind
from buildstep.system.digest import sha256_file
from buildstep.system.locks import lock
from buildstep.tree.entry import tree_digest
from tests.unit import trees

NOW = time.time()


@pytest.fixture
def cache(tmp_path: Path) -> LayerCache:
    return LayerCache(DirectoryBackend(os.fspath(tmp_path / "pool")))


def put(cache: LayerCache, name: str, size: int, age: float) -> Path:
    """A small kept file, last used so many seconds ago."""
    path = cache.backend.state / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - age, NOW - age))
    return path


def put_blob(cache: LayerCache, name: str, size: int, age: float, **fields: Any) -> Path:
    path = put(cache, f"blobs/{name}", size, age)
    values: dict[str, Any] = {
        "digest": sha256_file(path), "size": size, "diff_id": "d", "media_type": "m", "comment": f"layer {name}",
        "key": "k", "seconds": 3.0, "stamp": (1,), "boot": "b",
    }  # fmt: skip
    blob_files.BlobRecord(**values | fields).save(path)
    os.utime(blob_files.record_path(path), (NOW - age, NOW - age))
    return path


def put_layer(cache: LayerCache, key: str, age: float, **fields: Any) -> str:
    dataset = cache.backend.create(f"work-{key[:8]}")
    (dataset.path / "file").write_bytes(key.encode())
    entries = trees.scanned(dataset.path)
    cache.backend.snapshot(dataset, Kind.LAYER, key)
    cache.save(
        LayerRecord(
            key=key, slot="hello packages", below="base", inputs={}, tree_digest=tree_digest(entries),
            seconds=1.0, created=NOW - age, size=100, inodes=2, **fields,
        ),
        entries,
    )  # fmt: skip
    os.utime(cache.backend.state / "layers" / f"{key}.used", (NOW - age, NOW - age))
    return key


def all_kinds(cache: LayerCache) -> None:
    put_layer(cache, "a" * 40, 100)
    put_blob(cache, "b" * 64, 10, 90)
    put(cache, "blobs/c.shape", 0, 80)
    put(cache, "index/d.idx", 20, 70)
    put(cache, "resolved/e.json", 30, 60)
    put(cache, "artifacts/f.json", 40, 50)
    put(cache, "artifacts/tree-g.bin", 50, 40)
    put(cache, f"packages/apt/debs/h.deb.{'0' * 64}", 60, 30)
    put(cache, f"packages/apt/lists/{'0' * 64}/00000000000000000001/record", 70, 20)
    put(cache, "index/.j.idx.part", 5, 0)
    put(cache, "resolved/other.txt", 5, 0)


def test_everything_kept_is_listed_oldest_use_first(cache: LayerCache) -> None:
    all_kinds(cache)
    found = prune.items(cache)
    kinds = ["layer", "blob", "shape", "index", "answer", "outputs", "tree", "package", "lists"]
    assert [item.kind for item in found] == kinds
    layer, blob = found[:2]
    assert (layer.about, layer.size, layer.inodes, layer.seconds) == ("hello packages", 100, 2, 1.0)
    assert (blob.about, blob.seconds, blob.inodes) == (f"layer {'b' * 64}", 3.0, 2)
    assert blob.to_json()["kind"] == "blob"


def test_without_limits_all_goes(cache: LayerCache) -> None:
    all_kinds(cache)
    assert len(prune.prune(cache)) == 9
    assert prune.items(cache) == []
    assert cache.backend.idents(Kind.LAYER) == []
    assert (cache.backend.state / "resolved/other.txt").exists()


def test_what_was_not_used_for_longest_goes_first(cache: LayerCache) -> None:
    paths = [put(cache, f"index/{number}.idx", 100, 100 - number) for number in range(5)]
    removed = prune.prune(cache, Limits(bytes=250))
    assert [item.name for item in removed] == [os.fspath(path) for path in paths[:3]]
    assert prune.prune(cache, Limits(bytes=250)) == []
    assert len(prune.prune(cache, Limits(inodes=1))) == 1
    assert prune.prune(cache, Limits()) == []


def test_what_was_not_used_for_too_long_goes_in_any_case(cache: LayerCache) -> None:
    put(cache, "index/new.idx", 1, 10)
    put(cache, "index/old.idx", 1, 100_000)
    (gone,) = prune.prune(cache, Limits(keep_seconds=50_000))
    assert gone.name.endswith("old.idx")


def test_what_a_build_uses_stays(cache: LayerCache) -> None:
    key = put_layer(cache, "a" * 40, 100)
    blob = put_blob(cache, "b" * 64, 10, 90)
    index = put(cache, "index/d.idx", 20, 70)
    deb = put(cache, "packages/apt/debs/h.deb.0", 60, 30)
    lists = put(cache, f"packages/apt/lists/{'0' * 64}/00000000000000000001/record", 60, 30)
    state = cache.backend.state
    with (
        cache.using(key),
        blob.open("rb") as stream,
        lock(index.with_suffix(".lock")),
        lock(state / "packages/apt/lock"),
    ):
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_SH)
        assert prune.prune(cache) == []
    assert {item.kind for item in prune.prune(cache)} == {"layer", "blob", "index", "package", "lists"}
    assert not deb.exists()
    assert not lists.parent.exists()


def test_a_layer_goes_after_those_that_are_based_on_it(cache: LayerCache) -> None:
    lower = put_layer(cache, "a" * 40, 100)
    upper = put_layer(cache, "b" * 40, 50, under=(lower,))
    assert [item.name for item in prune.prune(cache)] == [upper, lower]


def test_what_can_never_be_used_again_goes_within_the_limits_too(cache: LayerCache) -> None:
    key = put_layer(cache, "a" * 40, 10)
    (cache.backend.state / "layers" / f"{key}.json").unlink()
    put(cache, f"blobs/{'c' * 64}", 10, 7200)  # without a record
    put(cache, f"blobs/{'d' * 64}", 10, 60)  # a build is writing it
    found = prune.items(cache)
    assert [(item.kind, item.used) for item in found] == [("blob", 0.0), ("layer", 0.0)]
    assert len(prune.prune(cache, Limits(bytes=1 << 40))) == 2
    assert (cache.backend.state / "blobs" / ("d" * 64)).exists()


def test_one_prunes_at_a_time_after_builds(cache: LayerCache) -> None:
    put(cache, "index/old.idx", 100, 10)
    with lock(cache.backend.state / "locks/prune.lock"):
        assert prune.keep_within(cache, Limits(bytes=1)) == []
    assert len(prune.keep_within(cache, Limits(bytes=1))) == 1


def test_old_lock_files_are_swept(cache: LayerCache) -> None:
    old, new = put(cache, "locks/old.lock", 0, 200_000), put(cache, "locks/new.lock", 0, 10)
    held = put(cache, "locks/held.lock", 0, 200_000)
    with lock(held):
        prune.prune(cache, Limits())
    assert (old.exists(), new.exists(), held.exists()) == (False, True, True)


def test_default_limits(tmp_path: Path) -> None:
    limits = Limits.of(tmp_path, max_bytes=None, max_inodes=None)
    assert 0 < limits.bytes <= prune.DEFAULT_BYTES
    assert limits.inodes == prune.DEFAULT_INODES
    assert Limits.of(tmp_path, max_bytes=5, max_inodes=0) == Limits(bytes=5, inodes=0)
    assert Limits.of(tmp_path / "missing", max_bytes=None, max_inodes=1).bytes == prune.DEFAULT_BYTES


def test_what_was_used_since_it_was_found_stays(cache: LayerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build comes between the list and the removal: it has been there, and is gone again."""
    all_kinds(cache)
    real = prune.items

    def items(cache: LayerCache) -> list[prune.Item]:
        found = real(cache)
        for item in found:
            path = Path(item.name)
            match item.kind:
                case "layer":
                    cache.touch(item.name)
                case "blob":
                    os.utime(blob_files.record_path(cache.backend.state / "blobs" / item.name))
                case "lists":
                    os.utime(path / "record")
                case _:
                    os.utime(path)
        return found

    monkeypatch.setattr(prune, "items", items)
    assert prune.prune(cache) == []
    monkeypatch.undo()
    assert len(prune.prune(cache)) == 9


def test_a_layer_that_was_made_since_it_was_found_stays(
    cache: LayerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dataset had no record when the list was made: its build was about to write one."""
    key = put_layer(cache, "a" * 40, 10)
    record = cache.backend.state / "layers" / f"{key}.json"
    data = record.read_bytes()
    record.unlink()
    real = prune.items

    def items(cache: LayerCache) -> list[prune.Item]:
        found = real(cache)
        record.write_bytes(data)
        return found

    monkeypatch.setattr(prune, "items", items)
    assert prune.prune(cache) == []
    assert cache.find(key) is not None
