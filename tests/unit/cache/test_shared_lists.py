"""A list on its way between agents: exact, small, and refused where it is not what it should be."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from buildstep.cache import shared_lists
from buildstep.errors import StoreError
from buildstep.system.digest import sha256_bytes
from buildstep.tree.entry import Entry, FileList, dumps
from buildstep.tree.hashing import hash_entries
from buildstep.tree.scan import scan

SHA = sha256_bytes(b"x")


def tree(**times: int) -> FileList:
    rows = {b"": Entry(b"", "d", 0o755, 0, 0, mtime=times.pop("top", 1))}
    for name, at in times.items():
        path = name.encode()
        rows[path] = Entry(path, "f", 0o644, 0, 0, 1, SHA, mtime=at)
    return rows


def digest(entries: FileList) -> str:
    return sha256_bytes(dumps(entries))


def test_only_what_is_not_below_is_sent_and_times_are_exact() -> None:
    below, above = tree(a=1, b=2, c=3), tree(a=1, b=2_000_000_007, d=4)
    data, gone = shared_lists.pack(above, below)
    assert len(zlib.decompress(data).splitlines()) == 3, "a header, b with its new time, and d"
    found, rows = shared_lists.unpack(data, gone, below, digest(above))
    assert found == above
    assert rows == {b"b", b"d"}
    assert list(found) == sorted(found)


@pytest.mark.parametrize("what", ["other", "cut", "noise", "gone"])
def test_another_list_is_refused(what: str) -> None:
    below, above = tree(a=1), tree(a=1, b=2)
    data, gone = shared_lists.pack(above, below)
    wanted = digest(above)
    match what:
        case "other":
            wanted = digest(below)
        case "cut":
            data = zlib.compress(zlib.decompress(data)[:-5])
        case "noise":
            data = b"noise"
        case "gone":
            gone = ["zz"]
    with pytest.raises(StoreError, match=r"its list is|damaged file list"):
        shared_lists.unpack(data, gone, below, wanted)


def test_what_was_unpacked_gets_the_times_of_its_list(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"x")
    (tmp_path / "l").symlink_to("nowhere")
    found = scan(tmp_path)
    hash_entries(tmp_path, found.values())
    listed = dict(found)
    for number, entry in enumerate(listed.values()):
        entry.mtime = 1_000_000_000_000_000_123 + number
    shared_lists.settle(tmp_path, listed, found, listed)
    now = {path: entry.mtime for path, entry in scan(tmp_path).items()}
    assert now == {path: entry.mtime for path, entry in listed.items()}


def test_another_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"y")
    os.chmod(tmp_path / "f", 0o644)
    found = scan(tmp_path)
    hash_entries(tmp_path, found.values())
    with pytest.raises(StoreError, match="not what its list says"):
        shared_lists.settle(tmp_path, tree(f=1), found, [])
