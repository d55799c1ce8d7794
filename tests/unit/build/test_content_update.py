"""A content update: which changes it takes, which layers it makes again, and that the last tree stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest

from buildstep.build.content_update import ContentUpdate, update_tree
from buildstep.cache import kept_tree
from buildstep.cache.blobs import BlobStore
from buildstep.cache.kept_tree import Tree
from buildstep.cache.layer_crew import Wanted
from buildstep.emit.interface import Blob
from buildstep.emit.split_layer import LAYER_TARGET, cut
from buildstep.errors import EmitError
from buildstep.tree.entry import Entry, line

BIG = LAYER_TARGET // 8


def entry(path: str, size: int = BIG, *, digest: str = "0", kind: str = "f", mtime: int = 5) -> Entry:
    made = Entry(path=path.encode(), kind=kind, mode=0o644, uid=0, gid=0, mtime=mtime)
    if kind == "f":
        made.size, made.sha256 = size, digest * 64
    return made


def kept(entries: list[Entry], **fields: Any) -> Tree:
    """The tree of a build that added these entries, cut as a build cuts it."""
    paths = [row.path for row in entries]
    sizes = [-1 if row.kind == "d" else row.size for row in entries]
    layers = cut(paths, sizes, {})
    values: dict[str, Any] = {
        "inputs": "i", "proto": "p", "build": "b1", "lower": [("base", "base image", "import")],
        "lines": [line(row) for row in entries], "paths": paths, "at": list(range(len(entries))),
        "sizes": sizes, "times": [row.mtime for row in entries], "sources": {}, "folders": [], "repeated": set(),
        "hard_links": {}, "in_base": set(), "external": set(), "layers": layers,
        "blobs": [f"blob{number}" for number in range(len(layers))], "installed": None, "entropy": (),
        "cleaned": [], "warnings": [],
    }  # fmt: skip
    return Tree(**values | fields)


@pytest.fixture
def entries() -> list[Entry]:
    rows = [entry("srv", kind="d")]
    return rows + [entry(f"srv/{number:03}") for number in range(80)]


def update(tree: Tree, *changed: Entry) -> ContentUpdate | None:
    return update_tree(tree, changed, b"/proto")


class Blobs:
    """Stored layers by name; made: the paths of each layer that was made."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.made: list[list[bytes]] = []
        self.reused: list[str] = []

    def find(self, name: str, comment: str) -> Blob | None:
        return self._blob(name, comment) if name in self.names else None

    def reuse(self, name: str, comment: str) -> Blob | None:
        self.reused.append(name)
        return self.find(name, comment)

    def for_content(self, _root: Path, changes: Any, _folders: Any, *, comment: str) -> Blob:
        self.made.append([row.path for row in changes.entries])
        return self._blob(f"made{len(self.made)}", comment)

    def for_contents(self, root: Path, wanted: Sequence[Wanted], folders: Any) -> Iterator[Blob]:
        return (self.for_content(root, row.changes, folders, comment=row.comment) for row in wanted)

    def _blob(self, name: str, comment: str) -> Blob:
        return Blob(media_type="m", digest="d", size=1, diff_id="i", path=Path(name), comment=comment)


def test_one_changed_file_makes_its_layer_again_and_no_other(entries: list[Entry]) -> None:
    tree = kept(entries)
    found = update(tree, entry("srv/010", digest="1", mtime=9))
    assert found is not None
    assert (found.files, len(found.changed)) == (1, 1)
    assert len(tree.layers) > 3
    blobs = Blobs("base", *tree.blobs)
    assert found.complete(cast(BlobStore, blobs))
    made = list(found.layers(cast(BlobStore, blobs)))
    assert len(blobs.made) == 1
    assert b"srv/010" in blobs.made[0]
    assert len(blobs.reused) == len(tree.layers) - 1 == len(made) - 1
    assert made[0].comment == f"proto directory, part 1 of {len(made)}"


def test_the_new_tree_has_the_new_content_and_time(entries: list[Entry]) -> None:
    found = update(kept(entries), entry("srv/010", size=BIG + 1, digest="1", mtime=9))
    assert found is not None
    place = [row.path for row in entries].index(b"srv/010")
    assert found.tree.sizes[place] == BIG + 1
    assert found.tree.times[place] == 9
    assert b"1" * 64 in found.tree.lines[place]
    facts = found.snapshot().facts()
    assert facts.added[0] == ("/srv/010", BIG + 1)


def test_the_last_layer_has_the_directories_of_the_base_above_the_others(entries: list[Entry]) -> None:
    tree = kept(entries)
    for path in ("", "etc"):
        tree.folders.append((len(tree.lines), 7))
        tree.lines.append(line(entry(path, kind="d")))
    tree.repeated.add(len(entries))
    found = update(tree, entry("srv/010", digest="1"))
    assert found is not None
    snapshot = found.snapshot()
    assert [(row.path, row.mtime) for row in snapshot.changes.entries] == [(b"", 7), (b"srv", 5)]
    assert sorted(snapshot.entries) == [b"", b"etc", b"srv"]


def test_the_last_tree_stays_as_it_was(entries: list[Entry]) -> None:
    tree = kept(entries)
    before = copy.deepcopy(asdict(tree))
    found = update(tree, entry("srv/010", digest="1"), entry("srv/020", digest="2"))
    assert found is not None
    list(found.layers(cast(BlobStore, Blobs("base"))))
    assert asdict(tree) == before


def test_only_times(entries: list[Entry]) -> None:
    found = update(kept(entries), entry("srv", kind="d", mtime=9))
    assert found is not None
    assert found.files == 0
    assert "only times changed" in found.reason


def test_reasons_count_files(entries: list[Entry]) -> None:
    tree = kept(entries)
    one = update(tree, entry("srv/010", digest="1"))
    two = update(tree, entry("srv/010", digest="1"), entry("srv/011", digest="1"))
    assert one is not None
    assert two is not None
    assert one.reason == "only the content of 1 file changed since build b1"
    assert two.reason == "only the content of 2 files changed since build b1"


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        (entry("srv/new"), {}),
        (entry("srv/010", kind="l"), {}),
        (entry("srv/010"), {"in_base": {11}}),
        (entry("srv/010"), {"external": {11}}),
    ],
    ids=["a new path", "another kind", "the base has the path", "not from the proto directory"],
)
def test_what_takes_a_full_build(entries: list[Entry], changed: Entry, fields: dict[str, Any]) -> None:
    assert entries[11].path == b"srv/010"
    assert update(kept(entries, **fields), changed) is None


def test_a_directory_that_only_the_base_has_does_not_matter(entries: list[Entry]) -> None:
    found = update(kept(entries), entry("etc", kind="d"), entry("srv/010", digest="1"))
    assert found is not None
    assert found.files == 1


def test_a_layer_with_content_from_elsewhere_is_never_made_again(entries: list[Entry]) -> None:
    tree = kept(entries)
    layer = next(places for places in tree.layers if 11 in places)
    neighbour = next(place for place in layer if place != 11)
    assert update(kept(entries, external={neighbour}), entry("srv/010", digest="1")) is None
    elsewhere = next(places[0] for places in tree.layers if 11 not in places)
    assert update(kept(entries, external={elsewhere}), entry("srv/010", digest="1")) is not None


def test_a_missing_layer_is_found_before_anything_is_done(entries: list[Entry]) -> None:
    tree = kept(entries)
    found = update(tree, entry("srv/010", digest="1"))
    assert found is not None
    changed = next(number for number, places in enumerate(tree.layers) if 11 in places)
    needed = [name for number, name in enumerate(tree.blobs) if number != changed]
    assert found.complete(cast(BlobStore, Blobs("base", *needed)))
    assert not found.complete(cast(BlobStore, Blobs("base", *needed[1:])))
    assert not found.complete(cast(BlobStore, Blobs(*needed)))
    with pytest.raises(EmitError, match="gone"):
        found.lower(cast(BlobStore, Blobs()))


def test_content_comes_from_where_the_proto_directory_has_it(entries: list[Entry]) -> None:
    found = update(kept(entries, sources={11: b"lib/010"}), entry("lib/010", digest="1"))
    assert found is not None
    assert found.files == 1
    assert found.changed == frozenset({11})


def test_a_kept_tree_is_read_back_only_for_its_inputs(tmp_path: Path, entries: list[Entry]) -> None:
    tree, slot = kept(entries), "hello"
    assert kept_tree.load(tmp_path, slot, inputs="i", proto="p") is None
    kept_tree.save(tmp_path, slot, tree)
    assert kept_tree.load(tmp_path, slot, inputs="i", proto="p") == tree
    assert kept_tree.load(tmp_path, slot, inputs="j", proto="p") is None
    assert kept_tree.load(tmp_path, slot, inputs="i", proto="q") is None
    path = next((tmp_path / "artifacts").iterdir())
    path.write_bytes(path.read_bytes()[:-5])
    assert kept_tree.load(tmp_path, slot, inputs="i", proto="p") is None
    kept_tree.forget(tmp_path, slot)
    assert not path.exists()
