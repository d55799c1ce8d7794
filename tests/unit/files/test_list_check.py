"""Lists that somebody wrote to lead out of the directory that they are for, or that nothing can be made from."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings

from buildstep.files.list_check import BadList, check, folding, require
from buildstep.tree.entry import Entry, FileList
from tests.unit import trees
from tests.unit.files.stored import file, listed, made, plausible, top

DATA = b"content"
LINK = made(b"link", "l", mode=0o777, target=b"/etc")

HOSTILE: dict[str, tuple[Sequence[Entry], str]] = {
    "parent": ([file(b"../x")], "the component '..'"),
    "parent inside": ([made(b"a", "d"), file(b"a/../../x")], "the component '..'"),
    "dot": ([file(b"./x")], "the component '.'"),
    "absolute": ([file(b"/etc/passwd")], "an absolute path"),
    "empty component": ([made(b"a", "d"), file(b"a//b")], "an empty component"),
    "slash at the end": ([file(b"a/")], "an empty component"),
    "NUL": ([file(b"a\0b")], "a NUL byte"),
    "long name": ([file(b"n" * 256)], "a name of more than 255 bytes"),
    "long path": ([file(b"/".join([b"n" * 250] * 15))], "a path of 3764 bytes"),
    "below a file": ([file(b"a"), file(b"a/b")], "below a, which is no directory"),
    "below a link": ([LINK, file(b"link/passwd")], "below link, which is a link"),
    "below nothing": ([file(b"a/b")], "in a, which is not in the list"),
    "twice": ([file(b"a"), file(b"a", DATA)], "in the list twice"),
    "top is a link": ([made(b"", "l", mode=0o777, target=b"/")], "the top of the tree, and no directory"),
    "unknown kind": ([made(b"a", "x")], "an unknown kind"),
    "mode": ([file(b"a", mode=0o10644)], "the mode 10644"),
    "negative mode": ([file(b"a", mode=-1)], "the mode -1"),
    "owner": ([file(b"a", uid=2**32 - 1)], "the owner 4294967295:"),
    "negative owner": ([file(b"a", gid=-1)], "the owner "),
    "time": ([file(b"a", mtime=10**40)], "a time that no file can have"),
    "size of the digest": ([file(b"a", DATA), file(b"b", DATA, size=8)], "not the size of its content"),
    "empty and not": ([file(b"a", b"", size=5)], "not the size of its content"),
    "size 0 of a content": ([file(b"a", DATA, size=0)], "not the size of its content"),
    "huge size": ([file(b"a", DATA, size=1 << 60)], "and a file can have"),
    "negative size": ([file(b"a", DATA, size=-1)], "has -1 bytes"),
    "no digest": ([file(b"a", sha256="")], "no digest of its content"),
    "no digest at all": ([file(b"a", sha256="../../etc/passwd")], "no digest of its content"),
    "content of a link": ([made(b"a", "l", target=b"b", size=3)], "has a content, and is no regular file"),
    "link to nothing": ([made(b"a", "l", target=b"")], "a target that no link can have"),
    "link with NUL": ([made(b"a", "l", target=b"a\0b")], "a target that no link can have"),
    "link of 5000 bytes": ([made(b"a", "l", target=b"a" * 5000)], "a target that no link can have"),
    "device": ([made(b"a", "c", rdev=(1 << 12, 0))], "the number 4096:0"),
    "xattr without a space": ([file(b"a", xattrs=((b"name", b""),))], "the attribute name"),
    "xattr too large": ([file(b"a", xattrs=((b"user.a", bytes(65537)),))], "the attribute user.a"),
    "xattr twice": ([file(b"a", xattrs=((b"user.a", b"1"), (b"user.a", b"2")))], "an attribute twice"),
    "capabilities": (
        [file(b"a", xattrs=((b"security.capability", b"\0\0\0\x02"),))],
        "capabilities of a form that no kernel reads",
    ),
    "first missing": ([file(b"b", first=b"a")], "a hard link to a, which is not in the list"),
    "first forward": ([file(b"a", first=b"b"), file(b"b")], "not the first path of its group"),
    "first of itself": ([file(b"a", first=b"a")], "not the first path of its group"),
    "first of a member": (
        [file(b"a"), file(b"b", first=b"a"), file(b"c", first=b"b")],
        "hard link to b, which is not the first path",
    ),
    "first of another kind": (
        [made(b"a", "p"), file(b"b", first=b"a")],
        "hard link to a, which is something else",
    ),
    "first of a directory": (
        [made(b"a", "d"), made(b"b", "d", first=b"a")],
        "hard link to a, which is something else",
    ),
    "first of another mode": (
        [file(b"a"), file(b"b", first=b"a", mode=0o4755)],
        "hard link to a, which is something else",
    ),
    "first of another content": (
        [file(b"a", b"1234567"), file(b"b", DATA, first=b"a")],
        "hard link to a, which has another content",
    ),
}


@pytest.mark.parametrize("which", HOSTILE)
def test_a_hostile_list_is_refused(which: str) -> None:
    entries, why = HOSTILE[which]
    faults = check([*([] if which == "top is a link" else [top()]), *entries])
    assert why in "\n".join(map(str, faults))


def test_an_entry_under_another_name() -> None:
    [fault] = check({b"": top(), b"a": file(b"b")})
    assert str(fault) == "a: is in the list under another name"


def test_all_faults_are_told_together() -> None:
    entries = listed(*(file(b"../%d" % number) for number in range(30)))
    with pytest.raises(BadList, match="30 faults") as caught:
        require(entries, "the list of a test")
    assert len(caught.value.faults) == 30
    assert "and 10 more" in caught.value.detail


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees.entries())
def test_every_tree_is_good(tree: tuple[FileList, dict[bytes, bytes]]) -> None:
    assert check(plausible(tree[0])) == []


def test_the_top_need_not_be_in_a_list() -> None:
    assert check([file(b"a")]) == []


@pytest.mark.parametrize(
    ("one", "two", "cases", "forms"),
    [
        ("README", "Readme", True, False),
        ("stra\u00dfe", "STRASSE", True, False),
        ("caf\u00e9", "cafe\u0301", False, True),
        ("CAF\u00c9", "cafe\u0301", True, True),
    ],
)
def test_names_that_collide_where_they_are_written(one: str, two: str, cases: bool, forms: bool) -> None:
    entries = listed(*(file(name.encode(), name.encode()) for name in (one, two)))
    assert check(entries) == []
    [fault] = check(entries, fold=folding(cases=cases, forms=forms))
    assert "is the same name as" in fault.message


def test_names_that_do_not_collide() -> None:
    entries = listed(made(b"a", "d"), made(b"B", "d"), file(b"a/x"), file(b"B/x"), file(b"\xff"))
    assert check(entries, fold=folding(cases=True, forms=True)) == []
    assert folding(cases=False, forms=False) is None
