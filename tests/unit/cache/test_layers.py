"""The layer cache: finding, every kind of miss with its reason, damage, and layers that are in use."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep.cache import verify
from buildstep.cache.layers import FORMAT, LayerCache, LayerRecord
from buildstep.cache.outputs import Last
from buildstep.errors import StoreError
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.interface import Kind
from buildstep.tree.entry import FileList, tree_digest
from tests.unit import trees

KEY = "a" * 40


@pytest.fixture
def cache(tmp_path: Path) -> LayerCache:
    return LayerCache(DirectoryBackend(os.fspath(tmp_path / "pool")))


def make(cache: LayerCache, key: str = KEY, **fields: Any) -> tuple[LayerRecord, FileList]:
    """A layer with one file, kept as a build keeps it."""
    dataset = cache.backend.create(f"work-{key[:8]}")
    (dataset.path / "file").write_bytes(b"content of " + key.encode())
    entries = trees.scanned(dataset.path)
    cache.backend.snapshot(dataset, Kind.LAYER, key)
    values: dict[str, Any] = {
        "key": key, "slot": "hello packages", "below": "base", "inputs": {"packages": ["a"]},
        "tree_digest": tree_digest(entries), "seconds": 2.0, "created": 1.0, "size": 50, "inodes": 2,
    }  # fmt: skip
    record = LayerRecord(**values | fields)
    cache.save(record, entries)
    return record, entries


def notes() -> tuple[list[str], Callable[[str], None]]:
    found: list[str] = []
    return found, found.append


def record_path(cache: LayerCache, key: str = KEY) -> Path:
    return cache.backend.state / "layers" / f"{key}.json"


def layer_file(cache: LayerCache, key: str = KEY) -> Path:
    with cache.backend.tree(Kind.LAYER, key) as tree:
        return tree / "file"


def test_a_saved_layer_is_found_with_its_list(cache: LayerCache) -> None:
    record, entries = make(cache, under=("b" * 40,), result={"order": ["a"]})
    found = cache.find(KEY)
    assert found is not None
    assert (found.under, found.result, found.inputs) == (record.under, record.result, record.inputs)
    assert cache.entries(found) == entries
    heard, note = notes()
    taken = cache.take(KEY, note)
    assert taken == (found, entries)
    assert heard == []
    assert time.time() - cache.last_used(KEY) < 60


@pytest.mark.parametrize("harm", ["record", "list", "dataset", "junk", "format", "no object", "field"])
def test_a_layer_that_is_not_complete_is_not_found(cache: LayerCache, harm: str) -> None:
    make(cache)
    path = record_path(cache)
    value = json.loads(path.read_bytes())
    assert value["format"] == FORMAT
    if harm == "record":
        path.unlink()
    elif harm == "list":
        path.with_suffix(".list").unlink()
    elif harm == "dataset":
        cache.backend.destroy(Kind.LAYER, KEY)
    elif harm == "junk":
        path.write_bytes(b"{")
    elif harm == "format":
        path.write_text(json.dumps(value | {"format": FORMAT - 1}))
    elif harm == "no object":
        path.write_text("[1]")
    else:
        del value["tree_digest"]
        path.write_text(json.dumps(value))
    assert cache.find(KEY) is None
    assert cache.take(KEY, pytest.fail) is None
    assert cache.records() == []


def test_a_changed_list_is_an_error_and_the_layer_goes(cache: LayerCache) -> None:
    record, _ = make(cache)
    record = cache.records()[0]
    path = record_path(cache).with_suffix(".list")
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(StoreError, match="file list was changed"):
        cache.entries(record)
    heard, note = notes()
    assert cache.take(KEY, note) is None
    assert "is damaged and is not used" in heard[0]
    assert cache.find(KEY) is None
    assert cache.make_room(KEY)
    assert not cache.backend.exists(Kind.LAYER, KEY)


def test_a_tree_that_was_touched_is_verified_again(cache: LayerCache) -> None:
    make(cache)
    before = cache.records()[0].fingerprint
    file = layer_file(cache)
    file.chmod(0o600)
    file.chmod(0o644)
    heard, note = notes()
    taken = cache.take(KEY, note)
    assert taken is not None
    assert heard == []
    assert cache.records()[0].fingerprint != before, "it need not be read the next time"
    file.write_bytes(b"other")
    assert cache.take(KEY, note) is None
    assert "its tree was changed: 1 paths, such as /file" in heard[0]


def test_why_there_is_no_layer(cache: LayerCache) -> None:
    make(cache, created=1.0, slot="other packages", inputs={"packages": ["a"]}, seconds=9.0)
    # Another component's layer, however near, is nothing to compare with.
    assert cache.miss("hello packages", {"packages": ["a", "x"]}) == "built for the first time"
    made = {"packages": ["a", "b"], "versions": {"a": "1"}, "index": "i"}
    make(cache, "c" * 40, created=2.0, inputs=made)
    miss = cache.miss
    assert miss("hello packages", {"packages": ["a"]}) == "packages: b removed; 2.0 s last time"
    assert "versions.a: 1 -> 2" in miss("hello packages", {"packages": ["a", "b"], "versions": {"a": "2"}})
    # Nothing differs that is known before the repository was queried.
    assert "the repository must be queried" in miss("hello packages", {"packages": ["a", "b"]})
    many = {f"option{number}": 1 for number in range(8)}
    assert "; and 3 more; " in miss("other packages", {"packages": ["a"]} | many)


def test_a_layer_is_compared_with_that_of_the_last_build(cache: LayerCache) -> None:
    make(cache, created=2.0, inputs={"packages": ["a", "b", "c"]}, seconds=2.0)
    make(cache, "c" * 40, created=1.0, slot="other packages", inputs={"packages": ["a"]}, seconds=9.0)
    # Neither the nearest one nor the newest: what the last build used, whoever made it.
    last = Last({}, "c" * 40, {"packages": ["a"]})
    wanted = {"packages": ["a", "b"]}
    assert cache.miss("hello packages", wanted, last) == "packages: b added; 9.0 s last time"
    gone = Last({}, "d" * 40, {"packages": ["a", "x"]})
    assert cache.miss("hello packages", {"packages": ["a"]}, gone) == "packages: x removed"
    assert cache.miss("hello packages", wanted, Last({})) == "the last build had no packages"


def test_a_layer_in_use_or_with_layers_on_it_stays(cache: LayerCache) -> None:
    make(cache)
    above = "d" * 40
    make(cache, above, under=(KEY,))
    assert not cache.try_discard(KEY), "another one is based on it"
    with cache.using(above):
        assert not cache.try_discard(above)
        assert not cache.make_room("e" * 40) or cache.find("e" * 40) is None
    assert cache.try_discard(above)
    assert cache.try_discard(KEY)
    assert cache.backend.idents(Kind.LAYER) == []


def test_room_is_made_where_a_dataset_has_no_record(cache: LayerCache) -> None:
    make(cache)
    assert cache.make_room(KEY), "a usable layer is left alone"
    assert cache.find(KEY) is not None
    above = "d" * 40
    make(cache, above, under=(KEY,))
    record_path(cache).unlink()
    with cache.using(above):
        assert not cache.make_room(KEY)
    assert cache.make_room(KEY)
    assert cache.backend.idents(Kind.LAYER) == []
    assert cache.make_room(KEY), "nothing is there"


def test_verify_names_what_is_damaged_and_removes_it_unless_it_is_used(cache: LayerCache) -> None:
    make(cache)
    make(cache, "c" * 40)
    assert list(verify.layers(cache.backend)) == []
    layer_file(cache).write_bytes(b"other")
    (found,) = verify.layers(cache.backend)
    assert (found.kind, found.name, found.about) == ("layer", KEY, "hello packages")
    assert "its tree was changed" in found.problem
    assert found.mend is not None
    with cache.using(KEY):
        assert not found.mend()
    assert found.mend()
    assert [record.key for record in cache.records()] == ["c" * 40]


@pytest.mark.parametrize("suffix", ["json", "list"])
def test_verify_finds_a_damaged_record_and_list(cache: LayerCache, suffix: str) -> None:
    make(cache)
    path = record_path(cache).with_suffix(f".{suffix}")
    path.write_bytes(path.read_bytes()[:-1])
    (found,) = verify.layers(cache.backend)
    assert found.file == path
    assert found.mend is not None
    assert found.mend()
    assert list(verify.layers(cache.backend)) == []
    assert cache.backend.idents(Kind.LAYER) == []
