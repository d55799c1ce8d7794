"""Two file lists compared: every change found, and named for what it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildstep.errors import StoreError
from buildstep.files.compare import Comparison, Figures, Listing, compare
from buildstep.tree.entry import HEADER, Entry, FileList, dumps, line, lines_of, loads, tree_digest

A, B = "a" * 64, "b" * 64


def file(path: bytes, sha256: str = A, *, mode: int = 0o644, size: int = 10, **more: Any) -> Entry:
    return Entry(path, "f", mode, 0, 0, size, sha256, **more)


def listed(*entries: Entry) -> Listing:
    return Listing.read(dumps({entry.path: entry for entry in entries}))


def words(found: Comparison) -> list[tuple[str, bytes, tuple[str, ...]]]:
    return [(change.word, change.path, change.what) for change in found.changes]


# -- any two lists ----------------------------------------------------------------------------------------

names = st.sampled_from([b"a", b"b", b"etc", b"\xff\n", b"x y", b"-", b"7"])
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
digests = st.sampled_from([A, B, "c" * 64])


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind, some = draw(st.sampled_from("fffdlcp")), draw(st.integers(0, 31))
    made = Entry(
        draw(paths), kind, 0o4755 if some & 1 else 0o644, some >> 1 & 1, 0, mtime=(some >> 2 & 1) - 1
    )
    if some & 8:
        made.xattrs = ((b"user.a,b", b"\0"),)
    if kind == "f":
        made.sha256 = draw(digests)
        made.size = int(made.sha256[0], 16)
        made.first = b"a/first" if some & 16 else b""
    elif kind == "l":
        made.target = draw(names)
    elif kind == "c":
        made.rdev = (1, some >> 4)
    return made


lists = st.lists(entries(), max_size=8).map(lambda found: {entry.path: entry for entry in found})


def applied(base: FileList, found: Comparison) -> FileList:
    """What a list becomes with the changes made to it."""
    tree = dict(base)
    for change in found.changes:
        if change.old is not None:
            del tree[change.old.path]
    return tree | {change.path: change.new for change in found.changes if change.new is not None}


def copied(tree: FileList) -> FileList:
    return {path: replace(entry) for path, entry in tree.items()}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lists, lists)
def test_the_changes_make_one_list_of_the_other(old: FileList, new: FileList) -> None:
    found = compare(Listing.read(dumps(old)), Listing.read(dumps(new)))
    assert tree_digest(applied(copied(old), found)) == tree_digest(copied(new))
    timed = compare(Listing.read(dumps(old)), Listing.read(dumps(new)), times=True)
    assert dumps(applied(copied(old), timed)) == dumps(copied(new))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lists, lists)
def test_the_other_way_round_it_is_the_same(old: FileList, new: FileList) -> None:
    there = compare(Listing.of(old), Listing.of(new))
    back = compare(Listing.of(new), Listing.of(old))
    assert (there.old, there.new) == (back.new, back.old)
    swapped, both = {"added": "removed", "removed": "added"}, ("changed", "moved")
    pairs = [
        sorted((c.word, getattr(c, one).path, getattr(c, other).path, c.what) for c in rows if c.word in both)
        for rows, one, other in ((there.changes, "old", "new"), (back.changes, "new", "old"))
    ]
    assert pairs[0] == pairs[1]
    one_sided = {(c.word, c.path) for c in there.changes if c.word not in both}
    assert one_sided == {(swapped[c.word], c.path) for c in back.changes if c.word not in both}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lists, lists)
def test_the_figures_are_those_of_each_list_alone(old: FileList, new: FileList) -> None:
    found = compare(Listing.of(old), Listing.of(new))
    for tree, figures in ((old, found.old), (new, found.new)):
        files = [entry for entry in tree.values() if entry.kind == "f"]
        assert figures == Figures(
            entries=len(tree),
            files=len(files),
            size=sum(entry.size for entry in files if not entry.first),
            unique=sum({entry.sha256: entry.size for entry in files}.values()),
        )
    assert found.new.size - found.old.size == sum(change.growth for change in found.changes)


@given(lists)
def test_a_list_does_not_differ_from_itself(tree: FileList) -> None:
    stored, canonical = dumps(tree), HEADER + b"".join(lines_of(tree))
    assert compare(Listing.read(stored), Listing.read(canonical), times=True).changes == ()
    assert Listing.read(stored).digest == Listing.read(canonical).digest == tree_digest(tree)


# -- what of it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (file(b"x"), file(b"x", B), ("content",)),
        (file(b"x"), file(b"x", B, size=11), ("content", "size")),
        (file(b"x"), file(b"x", mode=0o600), ("mode",)),
        (file(b"x"), Entry(b"x", "f", 0o644, 1, 0, 10, A), ("owner",)),
        (file(b"x"), Entry(b"x", "f", 0o644, 0, 1, 10, A), ("owner",)),
        (file(b"x"), file(b"x", xattrs=((b"user.a", b"1"),)), ("xattrs",)),
        (file(b"x"), file(b"x", first=b"a"), ("hard links",)),
        (file(b"x"), Entry(b"x", "l", 0o777, 0, 0, target=b"y"), ("kind",)),
        (file(b"x"), Entry(b"x", "d", 0o755, 0, 0), ("kind", "mode")),
        (Entry(b"x", "l", 0o777, 0, 0, target=b"y"), Entry(b"x", "l", 0o777, 0, 0, target=b"z"), ("target",)),
        (Entry(b"x", "c", 0o644, 0, 0, rdev=(1, 3)), Entry(b"x", "c", 0o644, 0, 0, rdev=(1, 5)), ("device",)),
        (Entry(b"x", "c", 0o644, 0, 0, rdev=(1, 3)), Entry(b"x", "b", 0o644, 0, 0, rdev=(1, 3)), ("kind",)),
    ],
)
def test_says_what_of_a_path_is_another(old: Entry, new: Entry, what: tuple[str, ...]) -> None:
    assert words(compare(listed(old), listed(new))) == [("changed", b"x", what)]


def test_times_count_only_when_asked_for() -> None:
    old, new = listed(file(b"x", mtime=1)), listed(file(b"x", mtime=2))
    assert compare(old, new).changes == ()
    assert words(compare(old, new, times=True)) == [("changed", b"x", ("time",))]


def test_a_content_that_went_elsewhere_has_moved() -> None:
    old = listed(file(b"a/one"), file(b"a/two", B), file(b"b/keep", "c" * 64))
    new = listed(file(b"z/one", mode=0o600), file(b"z/deux", B), file(b"b/keep", "c" * 64))
    found = compare(old, new)
    assert words(found) == [("moved", b"z/deux", ()), ("moved", b"z/one", ("mode",))]
    assert [change.old and change.old.path for change in found.changes] == [b"a/two", b"a/one"]


def test_of_several_with_one_content_those_of_one_name_belong_together() -> None:
    old = listed(file(b"a/one"), file(b"a/two"))
    new = listed(file(b"b/two"), file(b"b/three"))
    found = {change.path: change.old and change.old.path for change in compare(old, new).changes}
    assert found == {b"b/two": b"a/two", b"b/three": b"a/one"}


def test_an_added_file_names_where_its_content_was() -> None:
    old = listed(file(b"a"), file(b"gone", B))
    new = listed(file(b"a"), file(b"b\xff"), file(b"gone", "c" * 64), file(b"new", B))
    found = {change.path: change.copy_of for change in compare(old, new).of("added")}
    assert found == {b"b\xff": b"a", b"new": b"gone"}
    back = compare(listed(file(b"\xffsource"), file(b"other", B)), listed(file(b"\xffsource"), file(b"x")))
    assert [change.copy_of for change in back.of("added")] == [b"\xffsource"]


def test_empty_files_do_not_move() -> None:
    found = compare(listed(file(b"a", size=0)), listed(file(b"b", size=0)))
    assert words(found) == [("removed", b"a", ()), ("added", b"b", ())]
    assert [change.copy_of for change in found.changes] == [b"", b""]


def test_what_a_form_cannot_tell_is_not_compared() -> None:
    old = {b"x": file(b"x", "", mode=0)}
    found = compare(Listing.of(old, lacks=("mode", "content")), listed(file(b"x", B, size=11)))
    assert words(found) == [("changed", b"x", ("size",))]
    assert found.skipped == {"mode", "content"}
    assert Listing.of(old, lacks=("mode",)).digest == ""


# -- lists that are not as we write them ----------------------------------------------------------------------


def test_a_path_with_two_lines_is_refused_as_by_every_reader() -> None:
    one, two = line(file(b"x")), line(file(b"x", B))
    doubled, single, other = HEADER + one + two, HEADER + two, HEADER + line(file(b"y"))
    for old, new in (
        (doubled, single),
        (single, doubled),
        (doubled, doubled),
        (doubled, other),
        (other, doubled),
        (HEADER + two + two, single),
        (single, HEADER + two + two),
    ):
        with pytest.raises(StoreError, match="a path twice"):
            compare(Listing.read(old), Listing.read(new))
    with pytest.raises(StoreError, match="a path twice"):
        loads(doubled)


@pytest.mark.parametrize(
    "data",
    [
        b"something else\n",
        HEADER + b"f\t0644",
        HEADER + b"f\t0644\t0\n",
        HEADER + b"f\t0644\t0\t0\tmany\t-\t-\t-\tx\n",
        HEADER + b"?\t0644\t0\t0\t0\t-\t-\t-\tx\n",
        HEADER + line(file(b"x")) + b"\n",
    ],
)
def test_a_damaged_list_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError):
        compare(Listing.read(data), listed(file(b"y")))
    with pytest.raises(StoreError):
        compare(listed(file(b"y")), Listing.read(data))


def test_a_line_that_both_lists_have_is_checked_too() -> None:
    for row in (b"f\t0644\t0\n", b"f\t0644\t0\t0\tmany\t-\t-\t-\tx\n"):
        damaged = Listing.read(HEADER + row)
        with pytest.raises(StoreError):
            compare(damaged, damaged)


def test_a_path_is_found_by_its_name_alone() -> None:
    found = listed(file(b"etc/passwd"), file(b"etc/passwd-"), file(b"x/etc/passwd"))
    entry = found.find(b"etc/passwd")
    assert entry is not None
    assert entry.path == b"etc/passwd"
    assert found.find(b"passwd") is None
