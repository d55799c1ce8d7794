"""File lists: the canonical text, the tree digest, and what differs between two trees."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildstep.errors import StoreError
from buildstep.tree import entry as tree_entry
from buildstep.tree import hashing, scan
from buildstep.tree.diff import Changes, diff
from buildstep.tree.entry import Entry, FileList, dumps, line, loads, tree_digest
from tests.unit import trees

ZERO = "0" * 64


def plain(entries: FileList) -> list[bytes]:
    """A tree's canonical lines: equal for equal trees, times aside."""
    return [line(entries[path]) for path in sorted(entries)]


def apply(base: FileList, changes: Changes) -> FileList:
    """Lay a layer on a base as a tool that unpacks layers does, hard links by their target's content."""
    found = dict(base)
    for path in changes.removed:
        for gone in [p for p in found if p == path or p.startswith(path + b"/")]:
            del found[gone]
    for entry in changes.entries:
        old = found.get(entry.path)
        if old is not None and old.kind == "d" and entry.kind != "d":
            for gone in [p for p in found if p.startswith(entry.path + b"/")]:
                del found[gone]
        if entry.first:
            # A layer stands alone: what it links to is in it.
            assert entry.first in {other.path for other in changes.entries}
        found[entry.path] = entry
    return found


def relead(entries: FileList) -> None:
    """Give the hard-link groups that lost their first member another one."""
    numbers = {p: (0, hash(e.first or p)) for p, e in entries.items() if e.kind != "d"}
    scan.link_groups(entries, numbers)


# The text.


@given(trees.entries())
def test_the_stored_form_round_trips(made: tuple[FileList, dict[bytes, bytes]]) -> None:
    entries, _ = made
    assert loads(dumps(entries)) == entries


@given(trees.entries())
def test_the_canonical_form_is_read_without_times(made: tuple[FileList, dict[bytes, bytes]]) -> None:
    entries, _ = made
    text = tree_entry.HEADER + b"".join(plain(entries))
    assert loads(text) == {path: replace(entry, mtime=0) for path, entry in entries.items()}
    assert text.isascii()
    assert text.count(b"\n") == len(entries) + 1, "no name can break a line"


@given(trees.entries())
def test_the_lines_of_a_tree_are_those_of_its_entries(made: tuple[FileList, dict[bytes, bytes]]) -> None:
    entries, _ = made
    alone = {path: replace(entry) for path, entry in entries.items()}
    assert tree_entry.lines_of(entries) == plain(alone)


@pytest.mark.parametrize(
    "name",
    [b"-", b"--", b"new\nline", b"tab\there", b"\\x41", b"back\\slash", b"\xff\xfe", b" ", "é".encode()],
)
def test_odd_names_stay_what_they_are(name: bytes) -> None:
    entries = {
        name: Entry(name, "f", 0o644, 0, 0, sha256=ZERO),
        b"z": Entry(b"z", "l", 0o777, 0, 0, target=name),
        b"zz": Entry(b"zz", "f", 0o644, 0, 0, sha256=ZERO, first=name),
    }
    assert loads(dumps(entries)) == entries
    alone = {path: replace(entry) for path, entry in entries.items()}
    assert tree_entry.lines_of(alone) == plain(entries)


def test_the_canonical_text_is_what_the_docstring_says() -> None:
    entry = Entry(
        b"usr/a b", "f", 0o4755, 1, 2, size=3, sha256="ab", xattrs=((b"user.x,y=", b"\x00,"),), mtime=9
    )
    assert line(entry) == b"f\t4755\t1\t2\t3\tab\t-\tuser.x\\x2cy==002c\tusr/a\\x20b\n"
    assert line(Entry(b"", "d", 0o755, 0, 0)) == b"d\t0755\t0\t0\t0\t-\t-\t-\t.\n"
    assert line(Entry(b"n", "c", 0o666, 0, 0, rdev=(1, 3))) == b"c\t0666\t0\t0\t0\t-\t1:3\t-\tn\n"
    assert line(Entry(b"l", "l", 0o777, 0, 0, target=b"-")) == b"l\t0777\t0\t0\t0\t-\t\\x2d\t-\tl\n"


def test_the_digest_is_pinned() -> None:
    """It is in build records of images long shipped: a change needs a new format number."""
    entries = {
        b"": Entry(b"", "d", 0o755, 0, 0),
        b"a": Entry(b"a", "f", 0o644, 0, 0, size=1, sha256=ZERO),
        b"b": Entry(b"b", "f", 0o644, 0, 0, size=1, sha256=ZERO, first=b"a"),
        b"c": Entry(b"c", "l", 0o777, 0, 0, target=b"a"),
    }
    assert tree_digest(entries) == "f8697e008e069be740187e93606c0e24d2ca035c2df262de29634f3981372374"


def test_times_and_order_are_not_part_of_the_digest() -> None:
    entries = {p: Entry(p, "f", 0o644, 0, 0, sha256=ZERO, mtime=n) for n, p in enumerate((b"b", b"a"))}
    other = {p: replace(entries[p], mtime=7) for p in sorted(entries)}
    assert tree_digest(entries) == tree_digest(other)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": 0o600},
        {"uid": 1},
        {"gid": 1},
        {"size": 1},
        {"sha256": "1" * 64},
        {"xattrs": ((b"user.a", b""),)},
        {"first": b"other"},
        {"path": b"b"},
    ],
)
def test_everything_else_is(change: dict[str, object]) -> None:
    entry = Entry(b"a", "f", 0o644, 0, 0, sha256=ZERO)
    other = replace(entry, **change)  # type: ignore[arg-type]
    assert tree_digest({b"a": entry}) != tree_digest({other.path: other})


def test_an_unhashed_file_has_no_digest() -> None:
    with pytest.raises(AssertionError, match="has not been hashed"):
        tree_digest({b"a": Entry(b"a", "f", 0o644, 0, 0)})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"buildstep-filelist 2\n",
        tree_entry.HEADER + b"f\t0644\n",
        tree_entry.HEADER + b"x\t0644\t0\t0\t0\t-\t-\t-\ta\n",
        tree_entry.HEADER + b"f\t0999\t0\t0\t0\t-\t-\t-\ta\n",
        tree_entry.HEADER + b"f\t0644\t0\t0\t0\t-\t-\tuser.a=zz\ta\n",
    ],
)
def test_a_damaged_list_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError):
        loads(data)


def test_hard_links_of_links_and_devices_keep_what_they_are() -> None:
    entries = {
        b"a": Entry(b"a", "l", 0o777, 0, 0, target=b"x\\=y"),
        b"b": Entry(b"b", "l", 0o777, 0, 0, target=b"x\\=y", first=b"a"),
        b"c": Entry(b"c", "c", 0o666, 0, 0, rdev=(1, 3)),
        b"d": Entry(b"d", "c", 0o666, 0, 0, rdev=(1, 3), first=b"c"),
        b"e": Entry(b"e", "p", 0o666, 0, 0),
        b"f": Entry(b"f", "p", 0o666, 0, 0, first=b"e"),
    }
    assert loads(dumps(entries)) == entries


# What differs.


@given(trees.entries(), trees.entries())
@settings(max_examples=300)
def test_a_layer_leads_from_any_tree_to_any_other(
    one: tuple[FileList, dict[bytes, bytes]], two: tuple[FileList, dict[bytes, bytes]]
) -> None:
    base, tree = one[0], two[0]
    changes = diff(base, tree)
    assert plain(apply(base, changes)) == plain(tree)
    assert list(changes.removed) == sorted(changes.removed)
    assert [entry.path for entry in changes.entries] == sorted(entry.path for entry in changes.entries)
    for path in changes.removed:
        assert path in base
        assert path not in tree
        assert not any(path.startswith(other + b"/") for other in changes.removed), "topmost only"


@given(trees.entries(), st.data())
@settings(max_examples=200)
def test_a_layer_leads_from_a_tree_to_an_edited_one(
    made: tuple[FileList, dict[bytes, bytes]], data: st.DataObject
) -> None:
    base = made[0]
    tree = loads(dumps(base))
    for path in data.draw(st.lists(st.sampled_from(sorted(tree)), max_size=3)):
        if path not in tree or not path:
            continue
        if data.draw(st.booleans()):
            for gone in [p for p in tree if p == path or p.startswith(path + b"/")]:
                del tree[gone]
            relead(tree)
        else:
            for member in tree.values():
                if (member.first or member.path) == (tree[path].first or path):
                    member.uid = 4242
    changes = diff(base, tree)
    assert plain(apply(base, changes)) == plain(tree)


def test_equal_trees_give_an_empty_layer() -> None:
    entries = {b"a": Entry(b"a", "f", 0o644, 0, 0, sha256=ZERO, mtime=1)}
    later = {b"a": replace(entries[b"a"], mtime=2)}
    assert diff(entries, later) == Changes((), ())


def test_a_hard_link_group_is_written_whole() -> None:
    """A reader that unpacks only this layer must find what a link leads to (OCI image-spec, layer.md)."""
    base = {
        name: Entry(name, "f", 0o644, 0, 0, sha256=ZERO, first=b"" if name == b"a" else b"a")
        for name in (b"a", b"b")
    }
    tree = {**loads(dumps(base)), b"c": replace(base[b"b"], path=b"c")}
    assert [entry.path for entry in diff(base, tree).entries] == [b"a", b"b", b"c"]


def test_a_file_in_a_directorys_place_is_no_whiteout() -> None:
    base = {
        b"d": Entry(b"d", "d", 0o755, 0, 0),
        b"d/e": Entry(b"d/e", "d", 0o755, 0, 0),
        b"d/e/f": Entry(b"d/e/f", "f", 0o644, 0, 0, sha256=ZERO),
    }
    tree = {b"d": Entry(b"d", "l", 0o777, 0, 0, target=b"x")}
    assert diff(base, tree).removed == ()
    assert diff(base, {}).removed == (b"d",)
    assert diff(base, {b"d": base[b"d"]}).removed == (b"d/e",)


# Reading a directory.


def test_a_scan_sees_every_kind_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "f").write_bytes(b"abc")
    os.link(root / "f", root / "d/g")
    (root / "l").symlink_to(outside)
    os.mkfifo(root / "p")
    os.mkdir(os.fsencode(root) + b"/\xff\n")
    here = os.getcwd()
    os.chdir(root)  # a socket's path may only be 108 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s")
    finally:
        os.chdir(here)
    found = trees.scanned(root)
    assert {path: entry.kind for path, entry in found.items()} == {
        b"": "d", b"d": "d", b"d/g": "f", b"f": "f", b"l": "l", b"p": "p", b"s": "s", b"\xff\n": "d",
    }  # fmt: skip
    assert found[b"f"].first == b"d/g", "the first by path leads"
    assert found[b"f"].sha256 == found[b"d/g"].sha256 != ""
    assert found[b"l"].target == os.fsencode(outside)
    assert found[b"f"].size == 3
    assert found[b"d"].size == 0, "a directory's size is its file system's business"


def test_a_link_under_a_files_name_is_never_hashed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        hashing.hash_entries(root, [Entry(b"a", "f", 0o644, 0, 0)])


def test_only_what_changed_after_the_copy_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "gone").write_text("gone")
    base = trees.scanned(tmp_path)
    base[b"old"].uid = 12345  # what is not read anew is taken from the list
    since = max(entry.stat().st_ctime_ns for entry in os.scandir(tmp_path)) + 1
    (tmp_path / "gone").unlink()
    while (tmp_path / "clock").write_text("x") and (tmp_path / "clock").stat().st_ctime_ns < since:
        (tmp_path / "clock").unlink()
    found = scan.scan_changed(tmp_path, base, since=since)
    assert sorted(found) == [b"", b"clock", b"old"]
    assert found[b"old"].uid == 12345
    assert found[b"clock"].sha256 == ""


def test_an_equal_ctime_counts_as_changed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    base = trees.scanned(tmp_path)
    base[b"a"].uid = 12345
    found = scan.scan_changed(tmp_path, base, since=(tmp_path / "a").stat().st_ctime_ns)
    assert found[b"a"].uid == os.getuid()


def test_a_list_with_a_path_twice_is_damaged() -> None:
    """Of two lines for one path nobody could say which one counts."""
    row = tree_entry.line(Entry(b"a", "d", 0o755, 0, 0))
    with pytest.raises(StoreError, match="a path twice"):
        tree_entry.loads(tree_entry.HEADER + row + row)
