"""A layer that is found by a key, and made again of the parts of another one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.cache.blobs import BlobStore
from buildstep.emit.interface import ArchiveStyle
from buildstep.events import Bus
from buildstep.formats import codecs
from buildstep.tree.diff import Changes, diff
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.hashing import hash_entries
from buildstep.tree.scan import scan

GONE = (b"etc/old", b"etc/older", b"gone", b"usr/lib/x/y")


def tree(root: Path, changed: str = "") -> FileList:
    for number in range(300):
        path = root / f"usr/lib/d{number % 7}/f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{number} ".encode() * 900)
    (root / "etc").mkdir(exist_ok=True)
    if changed:
        (root / changed).write_text("changed\n")
    for folder, _, names in os.walk(root):
        for name in (*names, "."):
            os.utime(os.path.join(folder, name), (7, 7))
    found = scan(root)
    hash_entries(root, found.values())
    return found


def below() -> FileList:
    return {path: Entry(path, "f", 0o644, 0, 0, sha256="0" * 64) for path in GONE}


def made(state: Path, root: Path, entries: FileList, *, fresh: bool) -> tuple[bytes, dict[str, int]]:
    bus = Bus()
    store = BlobStore(
        state, codecs.codec("gzip"), slot="same", style=ArchiveStyle(), bus=bus,
        journal=_Journal(), fresh=fresh,  # type: ignore[arg-type]
    )  # fmt: skip
    with store:
        changes = diff(below(), entries)
        key = f"key {sorted(entry.sha256 for entry in entries.values())}"
        blob = store.for_key(key, root, changes, entries, comment="packages")
        store.remember()
        return blob.path.read_bytes(), dict(bus.counts)


class _Journal:
    def outputs(self, *_paths: object) -> None: ...


def test_only_what_changed_is_read_and_the_bytes_are_the_same(tmp_path: Path) -> None:
    state, root = tmp_path / "state", tmp_path / "root"
    root.mkdir()
    first, counts = made(state, root, tree(root), fresh=False)
    assert counts["files_read"] == 300
    changed = tree(root, "usr/lib/d3/f10")
    second, counts = made(state, root, changed, fresh=False)
    assert counts["files_read"] < 60
    assert second != first
    assert second == made(tmp_path / "other", root, changed, fresh=True)[0]


@pytest.mark.parametrize("gone", [(), GONE[:1], GONE])
def test_what_is_removed_is_part_of_the_parts(tmp_path: Path, gone: tuple[bytes, ...]) -> None:
    """Another set of removed paths than that of the layer whose parts are there."""
    state, root = tmp_path / "state", tmp_path / "root"
    root.mkdir()
    entries = tree(root)
    made(state, root, entries, fresh=False)

    def of(state: Path, *, fresh: bool) -> bytes:
        store = BlobStore(
            state, codecs.codec("gzip"), slot="same", style=ArchiveStyle(), bus=Bus(), journal=_Journal(),  # type: ignore[arg-type]
            fresh=fresh,
        )  # fmt: skip
        with store:
            changes = Changes(tuple(entries.values()), gone)
            return store.for_key("other", root, changes, entries, comment="x").path.read_bytes()

    assert of(state, fresh=False) == of(tmp_path / "fresh", fresh=True)
