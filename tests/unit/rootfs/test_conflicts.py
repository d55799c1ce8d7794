"""Where a proto directory and what is below it cannot both be: all are found, and named with what allows them."""

from __future__ import annotations

import os

import pytest

from buildstep.rootfs.conflicts import Conflict, error, find, judge
from buildstep.rootfs.placement import find_placements
from buildstep.tree.entry import LONGEST, Entry, FileList, PathTooLong
from tests.unit.rootfs.conftest import kinds


def tree(*rows: str) -> FileList:
    """A list of these paths: `x/` is a directory, `x -> y` a link, `x|` a pipe; parents come by themselves."""
    found: FileList = {b"": Entry(b"", "d", 0o755, 0, 0)}
    for row in rows:
        name, _, target = row.partition(" -> ")
        kind = "l" if target else "d" if name.endswith("/") else "p" if name.endswith("|") else "f"
        path = os.fsencode(name.rstrip("/|"))
        for depth in range(1, path.count(b"/") + 1):
            folder = b"/".join(path.split(b"/")[:depth])
            found.setdefault(folder, Entry(folder, "d", 0o755, 0, 0))
        size = 10 if kind == "f" else 0
        found[path] = Entry(path, kind, 0o644, 0, 0, size, target=os.fsencode(target))
    return found


def conflicts(proto: FileList, base: FileList) -> list[Conflict]:
    kind = kinds(proto)
    return find(kind, proto, base, find_placements(kind, base))


BASE = tree(
    "full/x", "full/deep/y", "empty/", "file", "nowhere -> /gone", "to-file -> file", "loop -> loop", "pipe|",
    "lib -> usr/lib", "usr/lib/d/x", "usr/lib/f", "again -> /lib", "usr/lib/inner -> ../../full",
)  # fmt: skip


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("full", "/full: a file over a directory with 3 paths in it"),
        ("full -> x", "/full: a link over a directory with 3 paths in it"),
        ("full|", "/full: a named pipe over a directory with 3 paths in it"),
        ("full/deep", "/full/deep: a file over a directory with 1 path in it"),
        ("file/x", "/file: a directory over a file"),
        ("file/", "/file: a directory over a file"),
        ("pipe/a/b", "/pipe: a directory over a named pipe"),
        ("nowhere/x", "/nowhere: a directory over a link to /gone, where no directory is"),
        ("to-file/x", "/to-file: a directory over a link to file, where no directory is"),
        ("loop/", "/loop: a directory over a link to loop, where no directory is"),
        ("lib/d", "/usr/lib/d: a file (lib/d) over a directory with 1 path in it"),
        ("lib/f/x", "/usr/lib/f: a directory (lib/f) over a file"),
        ("again/f/x", "/usr/lib/f: a directory (again/f) over a file"),
        ("lib/inner/deep -> x", "/full/deep: a link (lib/inner/deep) over a directory with 1 path in it"),
        ("usr -> full", "/usr: a link over a directory with 5 paths in it"),
    ],
)
def test_only_one_of_the_two_can_be_a_directory(row: str, told: str) -> None:
    rows = conflicts(tree(row), BASE)
    assert [str(found).partition(";")[0] for found in rows] == [told]
    assert judge(rows, [rows[0].rule]) == (rows, [])


@pytest.mark.parametrize(
    "row",
    [
        "full/", "full/x", "full/x -> y", "empty", "empty/x", "file", "file -> x", "nowhere", "nowhere -> x",
        "lib", "lib/new", "lib/d/", "lib/f", "new/x", "loop -> x",
    ],
)  # fmt: skip
def test_what_goes_together(row: str) -> None:
    assert conflicts(tree(row), BASE) == []


@pytest.mark.parametrize(
    ("rows", "path"),
    [
        (("lib/a", "usr/lib/a/x"), b"usr/lib/a"),
        (("lib/a/x", "usr/lib/a -> x"), b"usr/lib/a"),
        (("lib/a", "again/a/"), b"usr/lib/a"),
    ],
)
def test_a_proto_directory_in_its_own_way(rows: tuple[str, ...], path: bytes) -> None:
    """No rule helps here: whichever is left, the other's content is lost."""
    found = conflicts(tree(*rows), BASE)
    assert [row.path for row in found] == [path]
    assert judge(found, ["**"]) == ([], found)
    assert "leave one out" in str(found[0])


def test_what_is_mounted_on_has_to_be_a_directory() -> None:
    """No rule helps here either, and a place is told once."""
    proto, base = tree("tmp -> var/tmp", "run", "dev/null", "etc -> x"), tree("tmp/x", "run/", "var/tmp/")
    kind = kinds(proto)
    found = find(kind, proto, base, find_placements(kind, base), mounted=("/dev", "/proc", "/tmp", "/run"))
    assert [(row.path, row.kind) for row in found] == [(b"run", "f"), (b"tmp", "l")]
    assert judge(found, ["**"]) == ([], found)
    assert str(found[1]).startswith("/tmp: a link, where package scripts need a directory: leave it out, or")


def test_what_is_behind_a_link_and_in_place_may_be_of_one_kind() -> None:
    assert conflicts(tree("lib/a", "usr/lib/a", "lib/b/x", "usr/lib/b/y", "again/a -> b"), BASE) == []


def test_a_path_can_be_too_long_behind_a_link() -> None:
    name = "/".join(["x" * 99] * (LONGEST // 100 - 1))
    good, bad = (f"lib/{name}/{'y' * count}" for count in (LONGEST - len(f"usr/lib/{name}/"), LONGEST - len(f"lib/{name}/")))  # fmt: skip
    assert conflicts(tree(good), BASE) == []
    with pytest.raises(PathTooLong, match="a path of 3504 bytes, and an image can have 3500"):
        conflicts(tree(bad), BASE)


def test_what_goes_is_counted_once_by_content() -> None:
    base = tree("d/a", "d/b", "d/c/")
    base[b"d/b"].first = b"d/a"
    (found,) = conflicts(tree("d"), base)
    assert (found.paths, found.size) == (4, 10)


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("/opt/app", True), ("opt/app/", True), ("/opt/*", True), ("/*/app", True), ("**", True), ("/opt/**", True),
        ("**/app", True), ("/opt/a?p", True), ("/opt/[a-c]pp", True), ("/opt", False), ("/*", False), ("app", False),
        ("/opt/app/x", False), ("/opt/**/app", True), ("/opt/A*", False), ("", False), ("[", False),
    ],
)  # fmt: skip
def test_patterns(pattern: str, *, fits: bool) -> None:
    rows = [Conflict(path=b"opt/app", source=b"opt/app", kind="f")]
    assert judge(rows, ["/elsewhere", pattern]) == ((rows, []) if fits else ([], rows))


def test_all_are_listed_together_with_the_rule_for_each() -> None:
    found = conflicts(tree("full", "file/x", "lib/d"), BASE)
    told = error(judge(found, ["/file"])[1], "debian 12")
    assert told.message == "the proto directory does not fit on debian 12: 2 conflicts"
    assert told.detail.splitlines() == [
        "  /full: a file over a directory with 3 paths in it; to allow it: --replace '/full'",
        "  /usr/lib/d: a file (lib/d) over a directory with 1 path in it; to allow it: --replace '/usr/lib/d'",
    ]
    assert "build.replace" in told.hint


@pytest.mark.parametrize("name", [b"a*b", b"a[b]?", b"it's", b"new\nline", b"\xff\xfe", "ü".encode(), b'"\\'])
def test_a_rule_can_be_pasted_whatever_the_name(name: bytes) -> None:
    rows = [Conflict(path=b"x/" + name, source=name, kind="f")]
    assert judge(rows, [rows[0].rule]) == (rows, [])
    assert "'" not in rows[0].rule
    assert rows[0].rule.isprintable()
