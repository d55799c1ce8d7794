"""Forms of file lists: what each can say round-trips, and what it cannot is told."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildstep.errors import SpecError, StoreError, UsageError
from buildstep.files.interface import Missing
from buildstep.files.lists import LISTS, detect, gather, read_list, write_list
from buildstep.files.lists.gather import MADE_LIMIT, Gathering, faults_of
from buildstep.files.lists.interface import Named, Note, Owners, Reading, ReadList, Writing, resolve
from buildstep.system.accounts import numbers
from buildstep.tree import entry as tree_entry
from buildstep.tree.entry import Entry, FileList, dumps
from tests.unit import trees
from tests.unit.files.ays import fixture, md5, old_read_1, old_read_3

A, B = md5(b"a").encode(), md5(b"bb").encode()
SHA = hashlib.sha256(b"a").hexdigest()


def counts(notes: tuple[Note, ...]) -> dict[str, int]:
    return {note.kind: note.count for note in notes}


def faults(data: bytes, form: str | None = None, reading: Reading | None = None) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read_list(data, form, reading)
    return [str(fault) for fault in caught.value.faults]


def fake_md5(entry: Entry) -> str:
    """A digest that is another for other contents, where a test has no contents."""
    return md5(f"{entry.sha256} {entry.size}".encode())


def written(
    entries: FileList, form: str, *, lossy: bool = True, owners: Owners | None = None
) -> tuple[bytes, dict[str, int]]:
    done = write_list(entries, form, Writing(md5=fake_md5, lossy=lossy, owners=owners or Owners()))
    return done.data, counts(done.losses)


def tree(*entries: Entry) -> FileList:
    found = {b"": Entry(b"", "d", 0o755, 0, 0)} | {entry.path: entry for entry in entries}
    return {path: found[path] for path in sorted(found)}


def file(path: bytes, content: bytes = b"a", mode: int = 0o755, mtime: int = 0) -> Entry:
    return Entry(path, "f", mode, 0, 0, len(content), hashlib.sha256(content).hexdigest(), mtime=mtime)


# -- every form ----------------------------------------------------------------------------------------


def test_the_table() -> None:
    assert [*LISTS] == ["buildstep", "ays1", "ays3"]
    assert all(kind.name == name for name, kind in LISTS.items())
    with pytest.raises(UsageError, match="no form of list is called 'ays2'"):
        read_list(b"", "ays2")


@pytest.mark.parametrize("form", LISTS)
def test_a_form_is_told_by_its_first_line(form: str) -> None:
    data, _ = written(tree(file(b"a|b"), file(b"c"), Entry(b"d", "d", 0o755, 0, 0)), form)
    assert detect(data) == form
    assert detect(b"\n \r\n" + data) == (form if form != "buildstep" else "buildstep")
    assert read_list(data).entries[b"c"].size == 1


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"#!/bin/sh\n", b"\x28\xb5\x2f\xfd\0", b"a|b|c\n", b"buildstep-filelist 2\n"]
)
def test_what_has_no_form_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError, match=r"x\.flist: the list"):
        read_list(data, reading=Reading(source="x.flist"))


@given(
    data=st.one_of(st.binary(max_size=200), st.text("|/.a0\n\r\t\\-", max_size=80).map(str.encode)),
    form=st.sampled_from([*LISTS]),
)
def test_no_bytes_end_in_anything_but_a_list_or_an_error(data: bytes, form: str) -> None:
    try:
        found = read_list(data, form)
    except (SpecError, StoreError):
        return
    assert [*found.entries] == sorted(found.entries)
    for path, entry in found.entries.items():
        assert not [*faults_of(entry)]
        assert path == b"" or found.entries[path.rpartition(b"/")[0]].kind == "d"


@pytest.mark.parametrize("form", ["ays1", "ays3"])
def test_paths_that_lead_elsewhere_are_refused_all_together(form: str) -> None:
    tail = b"|%s|1\n" if form == "ays1" else b"|%s|1|0|0|0644|2|0|0|\n"
    names = [b"/../a", b"/a/../../b", b"/a/.", b"/./c", b"/a\0b", b"/", b"/a/", b"/" + b"n" * 256, b"/ok"]
    names += [b"/" + b"d/" * 1800 + b"e"]
    found = faults(b"".join(name + tail % A for name in names), form)
    assert len(found) == 9
    for line, word in enumerate(("`..`", "`..`", "`.`", "`.`", "NUL", "top", "slash", "255", "3500"), 1):
        number = line if line < 9 else 10
        assert found[line - 1].startswith(f"line {number}: "), found[line - 1]
        assert word in found[line - 1]


@pytest.mark.parametrize("form", ["ays1", "ays3"])
def test_what_is_above_a_path_is_a_directory(form: str) -> None:
    tail = b"|%s|1\n" % A if form == "ays1" else b"|%s|1|0|0|0644|2|0|0|\n" % A
    found = faults(b"/usr/lib/x" + tail + b"/usr" + tail + b"/b/c/d" + tail + b"/b" + tail, form)
    assert found == [
        "line 1: usr/lib/x is below usr, which is no directory by line 2",
        "line 3: b/c/d is below b, which is no directory by line 4",
    ]


def test_a_link_is_no_directory_either() -> None:
    data = b"/lib|%s|1|0|0|0777|1|0|0|/etc\n/lib/passwd|%s|1|0|0|0644|2|0|0|\n" % (A, A)
    assert faults(data, "ays3") == ["line 2: lib/passwd is below lib, which is no directory by line 1"]


def test_of_many_faults_the_first_are_told() -> None:
    found = faults(b"no list\n" * 1000, "ays1")
    assert len(found) == 51
    assert found[-1] == "and: 950 more faults"


def test_a_line_cannot_bring_thousands_of_directories_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    make = Gathering._make

    def counted(self: Gathering, path: bytes) -> None:
        made.append(path)
        make(self, path)

    monkeypatch.setattr(Gathering, "_make", counted)
    rows = [b"/%d/%s/f|%s|1\n" % (number, b"/".join([b"d"] * 1700), A) for number in range(10)]
    read_list(b"".join(rows), "ays1")
    whole = sum(map(len, made))
    assert 100 * sum(map(len, rows)) < whole < MADE_LIMIT
    made.clear()
    monkeypatch.setattr(gather, "MADE_LIMIT", whole // 2)
    assert faults(b"".join(rows), "ays1")[0].startswith("all lines: the directories that are not listed")
    assert sum(map(len, made)) < whole * 0.6


# -- our own form --------------------------------------------------------------------------------------


@given(made=trees.entries())
def test_the_stored_form_says_everything(made: tuple[FileList, dict[bytes, bytes]]) -> None:
    entries, _ = made
    data, losses = written(entries, "buildstep", lossy=False)
    assert (data, losses) == (dumps(entries), {})
    found = read_list(data)
    assert (found.entries, found.digests, found.notes) == (entries, {}, ())


def test_the_canonical_form_has_no_times() -> None:
    entries = tree(file(b"a", mtime=7), file(b"b", mtime=8))
    data = tree_entry.HEADER + b"".join(map(tree_entry.line, entries.values()))
    found = read_list(data)
    assert counts(found.notes) == {"times": 3}
    assert found.entries[b"a"].mtime == 0


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (b"f\t0644\t0\t0\t1\t%s\t-\t-\t../a\t0" % SHA.encode(), "`..`"),
        (b"f\t0644\t0\t0\t1\t%s\t-\t-\t/a\t0" % SHA.encode(), "slash"),
        (b"f\t0644\t0\t0\t1\t%s\t-\t-\ta b\t0" % SHA.encode(), "not a line"),
        (b"f\t644\t0\t0\t1\t%s\t-\t-\ta\t0" % SHA.encode(), "not a line"),
        (b"f\t0644\t00\t0\t1\t%s\t-\t-\ta\t0" % SHA.encode(), "not a line"),
        (b"f\t0644\t0\t0\t1_0\t%s\t-\t-\ta\t0" % SHA.encode(), "not a line"),
        (b"f\t0644\t-1\t0\t1\t%s\t-\t-\ta\t0" % SHA.encode(), "owner"),
        (b"f\t0644\t4294967295\t0\t1\t%s\t-\t-\ta\t0" % SHA.encode(), "owner"),
        (b"f\t10644\t0\t0\t1\t%s\t-\t-\ta\t0" % SHA.encode(), "mode"),
        (b"f\t0644\t0\t0\t-1\t%s\t-\t-\ta\t0" % SHA.encode(), "bytes"),
        (b"f\t0644\t0\t0\t1\tabc\t-\t-\ta\t0", "SHA-256"),
        (b"f\t0644\t0\t0\t1\t%s\tb\t-\ta\t0" % SHA.encode(), "hard link"),
        (b"l\t0777\t0\t0\t0\t-\t-\t-\ta\t0", "leads? to|link"),
        (b"x\t0777\t0\t0\t0\t-\t-\t-\ta\t0", "not a line"),
        (b"c\t0600\t0\t0\t0\t-\t-1:3\t-\ta\t0", "device"),
        (b"f\t0644\t0\t0\t1\t%s\t-\t\\x00=00\ta\t0" % SHA.encode(), "attribute"),
        (b"f\t0644", "not a line"),
        (b"", "not a line"),
    ],
)
def test_a_list_of_ours_that_somebody_changed(row: bytes, word: str) -> None:
    [found] = faults(tree_entry.HEADER + row + b"\n")
    assert found.startswith("line 2: ")
    assert word.rsplit("|", maxsplit=1)[-1] in found


def test_a_list_of_ours_that_was_cut_off_or_sorted_anew() -> None:
    data = dumps(tree(file(b"a"), file(b"b")))
    assert faults(data[:-1]) == ["line 4: the line does not end: the list was cut off"]
    head, top, a, b = data.splitlines(keepends=True)
    assert counts(read_list(head + top + b + a + a).notes) == {"unsorted": 1, "repeated": 1}
    assert counts(read_list(head + a).notes) == {"parents": 1}


def test_a_file_that_was_not_read_is_no_line_of_ours() -> None:
    entries = tree(Entry(b"a", "f", 0o644, 0, 0, 1))
    with pytest.raises(SpecError, match="the tree as a list of the form buildstep"):
        written(entries, "buildstep", lossy=False)
    data, losses = written(entries, "buildstep")
    assert losses == {"unhashed": 1}
    assert counts(read_list(data).notes) == {"unhashed": 1}


# -- path|md5|size -------------------------------------------------------------------------------------


def test_a_list_as_of_a_program() -> None:
    found = read_list(fixture("acme__kvstore"))
    files = [entry for entry in found.entries.values() if entry.kind == "f"]
    assert len(files) == 10
    assert len(found.digests) == 10
    assert len(found.wanted()) == 9
    assert counts(found.notes) == {"assumed": 10, "same-content": 1, "parents": 5}
    assert found.entries[b"opt/acme/apps"] == Entry(b"opt/acme/apps", "d", 0o755, 0, 0)
    assert {entry.mode for entry in files} == {0o755}
    other = read_list(fixture("acme__kvstore"), reading=Reading(file_mode=0o775))
    assert other.entries[b"opt/acme/apps/kvstore/kv-cli"].mode == 0o775


@pytest.mark.parametrize("conflicts", ["refuse", "last"])
def test_261_lines_for_119_paths(conflicts: str) -> None:
    data = fixture("acme__directory")
    assert data.count(b"\n") == 261
    found = read_list(data, reading=Reading(conflicts=conflicts))  # type: ignore[arg-type]
    files = [entry for entry in found.entries.values() if entry.kind == "f"]
    assert len(files) == 119
    notes = counts(found.notes)
    assert (notes["repeated"], notes["assumed"]) == (142, 119)
    assert notes["double-slash"] == sum(b"//" in row for row in data.splitlines()) > 200
    assert len(found.digests) == 119 - 11, "the MD5 of nothing is known"
    assert found.entries[b"opt/acme/apps/directory/etc/empty00"].sha256 == hashlib.sha256(b"").hexdigest()
    assert "first line 1 (" in str(found.notes[0])


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_line_ends(end: bytes) -> None:
    found = read_list(b"/a|%s|1\r\n\n  \n/b|%s|2" % (A, B) + end)
    assert [*found.entries] == [b"", b"a", b"b"]
    notes = counts(found.notes)
    assert notes["blank"] == 2
    assert notes["crlf"] == (2 if end == b"\r\n" else 1)
    assert notes.get("unterminated", 0) == (end == b"")


def test_a_name_may_hold_what_separates_fields() -> None:
    found = read_list(b"/a|b|%s|7|%s|1\n/c d\r|%s|1\n" % (B, A, A))
    assert found.digests == {b"a|b|%s|7" % B: Named("md5", A.decode()), b"c d\r": Named("md5", A.decode())}


def test_names_without_a_slash() -> None:
    found = read_list(b"a/b|%s|1\n//c|%s|1\n" % (A, A))
    assert {b"a/b", b"c"} < found.entries.keys()
    assert counts(found.notes)["relative"] == 1
    assert counts(found.notes)["double-slash"] == 1


def test_two_contents_of_one_path() -> None:
    data = b"/a|%s|1\n/b|%s|1\n//a|%s|2\n" % (A, A, B)
    [found] = faults(data)
    assert found.startswith("line 3: a is not what line 1 says of it")
    last = read_list(data, reading=Reading(conflicts="last"))
    assert last.digests[b"a"].digest == B.decode()
    assert last.entries[b"a"].size == 2
    assert counts(last.notes)["overridden"] == 1
    empty = b"/a|%s|1\n/a|%s|0\n" % (A, md5(b"").encode())
    assert read_list(empty, reading=Reading(conflicts="last")).digests == {}


def test_sizes_that_cannot_be() -> None:
    found = faults(
        b"/a|%s|1\n/b|%s|2\n/c|%s|0\n/d|%s|5\n/e|%s|9999999999999\n" % (A, A, A, md5(b"").encode(), B)
    )
    assert [row.split(" (")[0] for row in found] == [
        f"line 2: md5:{A.decode()} has 2 bytes here and 1 on line 1",
        "line 3: /c has no bytes, but not the MD5 of nothing",
        "line 4: /d has 5 bytes, but the MD5 of nothing",
        "line 5: e has 9999999999999 bytes, and a file can have 4398046511104",
    ]


@pytest.mark.parametrize(
    "row", [b"/a|%s|-1", b"/a|%s", b"/a|" + A.upper() + b"|1", b"|%s|1", b"/a|%s|1|", b"/a|../../etc/x|1"]
)
def test_lines_that_are_none(row: bytes) -> None:
    [found] = faults((row.replace(b"%s", A)) + b"\n", "ays1")
    assert found.startswith("line 1: not `path|md5|size`: ")


def test_losses_of_the_first_form() -> None:
    entries = tree(
        file(b"bin/a"),
        file(b"bin/b|c"),
        file(b"bin/setuid", mode=0o4755, mtime=5),
        replace(file(b"bin/twin"), first=b"bin/a"),
        Entry(b"bin", "d", 0o700, 0, 0),
        Entry(b"empty", "d", 0o755, 0, 0),
        Entry(b"empty/too", "d", 0o755, 0, 0),
        Entry(b"link", "l", 0o777, 0, 0, target=b"bin"),
        Entry(b"null", "c", 0o666, 0, 0, rdev=(1, 3)),
        Entry(b"attr", "f", 0o755, 7, 0, 1, SHA, xattrs=((b"user.a", b"b"),)),
    )
    data, losses = written(entries, "ays1")
    assert losses == {
        "name": 1, "directory": 2, "link": 1, "device": 1, "mode-owner": 3, "time": 1, "hard-link": 1, "xattrs": 1,
    }  # fmt: skip
    assert [*old_read_1(data)] == ["/attr", "/bin/a", "/bin/setuid", "/bin/twin"]
    with pytest.raises(SpecError, match="the tree as a list of the form ays1: 5 faults") as caught:
        written(entries, "ays1", lossy=False)
    assert [fault.where for fault in caught.value.faults] == ["bin/b|c", "empty", "empty/too", "link", "null"]


def test_the_first_form_says_what_it_can_without_being_lossy() -> None:
    one = fake_md5(file(b"a")).encode()
    data, losses = written(
        tree(file(b"a", b""), file(b"a-b"), file(b"b/c"), Entry(b"b", "d", 0o755, 0, 0)), "ays1", lossy=False
    )
    assert (data, losses) == (
        b"/a-b|%b|1\n/a|%b|0\n/b/c|%b|1\n" % (one, md5(b"").encode(), one),
        {},
    )


OLD_1 = st.text(st.characters(codec="utf-8", exclude_characters="/|\0"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and name.splitlines() == [name] and len(name.encode()) < 200
)


@given(names=st.dictionaries(OLD_1, st.binary(max_size=9), max_size=6), below=st.booleans())
def test_what_the_first_form_can_say_is_read_by_ours_and_by_the_old_reader(
    names: dict[str, bytes], below: bool
) -> None:
    top = b"opt/x/" if below else b""
    entries = tree(*(file(top + name.encode(), content) for name, content in names.items()))
    if below and names:
        entries |= {path: Entry(path, "d", 0o755, 0, 0) for path in (b"opt", b"opt/x")}
    by_digest = {md5(content): hashlib.sha256(content).hexdigest() for content in names.values()}
    by_sha = {sha: name for name, sha in by_digest.items()}
    done = write_list(entries, "ays1", Writing(md5=lambda entry: by_sha[entry.sha256]))
    assert done.losses == ()
    assert old_read_1(done.data) == {
        f"/{os.fsdecode(top)}{name}": (md5(content), len(content)) for name, content in names.items()
    }
    found = read_list(done.data, "ays1")
    assert resolve(found, lambda named, _size: by_digest[named.digest]) == entries


# -- ten fields ----------------------------------------------------------------------------------------


WWW = Owners(users={"www": 1002}, groups={})


def test_a_list_of_the_old_writer() -> None:
    found = read_list(fixture("acme__proxy"), reading=Reading(owners=WWW))
    at = b"opt/acme/apps/proxy/"
    entries = {path.removeprefix(at): entry for path, entry in found.entries.items() if path.startswith(at)}
    assert {entry.mtime for entry in entries.values() if entry.mtime} == {1_460_000_000 * 10**9}
    assert entries[b"sbin/proxy"].mode == 0o4755
    assert entries[b"lib/libfilter.so.1"].target == b"libfilter.so.1.2"
    assert (entries[b"dev/null"].kind, entries[b"dev/null"].rdev) == ("c", (1, 3))
    assert (entries[b"dev/disk"].kind, entries[b"dev/disk"].rdev) == ("b", (8, 0))
    assert (entries[b"run/feed"].kind, entries[b"run/feed"].mode) == ("p", 0o600)
    assert (entries[b"log"].kind, entries[b"log"].uid, entries[b"log"].gid) == ("d", 1002, 1003)
    assert entries[b"run/notify"].kind == "s"
    assert entries[b"run"] == Entry(at + b"run", "d", 0o755, 0, 0)
    assert counts(found.notes) == {"short-mode": 4, "times-swapped": 9, "parents": 10}
    assert len(found.digests) == 2, "of the three files one is empty"


def test_owners_without_a_number() -> None:
    found = faults(fixture("acme__proxy").replace(b"/run/", b"/../"))
    assert len(found) == 4 + 2
    assert found[0].startswith("line 4: no user 'www' is known (give the etc/passwd")
    other = read_list(fixture("acme__proxy"), reading=Reading(owners=Owners(unknown=65534)))
    assert other.entries[b"opt/acme/apps/proxy/log"].uid == 65534
    assert counts(other.notes)["owner"] == 4
    assert "(user www)" in str(next(note for note in other.notes if note.kind == "owner"))


def test_owners_of_the_trees_own_tables() -> None:
    table = b"root:x:0:0::/root:/bin/sh\nwww:x:33:33::/:/bin/false\nwww:x:34:34\nweb:x:33:33\nbad\nodd:x:y:\n12:x:5:5\n"
    table += b"a b:x:6:6\n"
    assert numbers(table) == {"root": 0, "www": 33, "web": 33, "12": 5, "a b": 6}
    owners = Owners.of_tables(table, b"root:x:0:\nwww:x:80:\n")
    entries = tree(
        *(Entry(b"%d" % uid, "d", 0o755, uid, gid) for uid, gid in ((33, 80), (5, 5), (6, 0), (0, 33)))
    )
    data, _ = written(entries, "ays3", owners=owners)
    assert [row.split(b"|")[3:5] for row in data.splitlines()] == [
        [b"root", b"33"], [b"www", b"www"], [b"5", b"5"], [b"6", b"root"],
    ]  # fmt: skip
    assert read_list(data, reading=Reading(owners=owners)).entries == entries
    odd = Owners(users={"root": 7, "admin": 0})
    data, _ = written(entries, "ays3", owners=odd)
    assert read_list(data, reading=Reading(owners=odd)).entries == entries


@pytest.mark.parametrize("name", ["99999999999", "4294967295", "www", ""])
def test_no_such_owner(name: str) -> None:
    assert len(faults(b"/a|%s|1|%s|0|0644|2|0|0|\n" % (A, name.encode()), "ays3")) == 1


LINK_HASH = md5(b"flist:/l:5").encode()


@pytest.mark.parametrize(
    ("rows", "mtime", "note"),
    [
        (b"/f|%s|1|0|0|0644|2|9|5|\n/l|%s|1|0|0|0777|1|9|5|x\n" % (A, LINK_HASH), 5, ""),
        (b"/f|%s|1|0|0|0644|2|5|9|\n/l|%s|1|0|0|0777|1|5|9|x\n" % (A, LINK_HASH), 5, "times-swapped"),
        (b"/f|%s|1|0|0|0644|2|9|5|\n/l|%s|1|0|0|0777|1|5|9|x\n" % (A, LINK_HASH), 9, "times-swapped"),
        (b"/f|%s|1|0|0|0644|2|5|9|\n" % A, 5, "times-guessed"),
        (b"/f|%s|1|0|0|0644|2|9|5|\n" % A, 5, "times-guessed"),
        (b"/f|%s|1|0|0|0644|2|9|5|\n/l|%s|1|0|0|0777|1|9|5|x\n" % (A, A), 5, "times-guessed"),
        (b"/f|%s|1|0|0|0644|2|7|7|\n" % A, 7, ""),
        (b"/f|%s|1|0|0|0644|2|-7|-7|\n" % A, -7, ""),
    ],
)
def test_which_of_two_times_is_the_mtime(rows: bytes, mtime: int, note: str) -> None:
    found = read_list(rows)
    assert found.entries[b"f"].mtime == mtime * 10**9
    assert {kind for kind in counts(found.notes) if kind.startswith("times")} == {note} - {""}


def test_a_path_and_a_target_may_hold_what_separates_fields() -> None:
    found = read_list(b"/a|b|%s|1|0|0|0777|1|0|0|x|y\n/c|%s|1|0|0|0644|2|0|0|extra\n" % (A, A), "ays3")
    assert found.entries[b"a|b"].target == b"x|y"
    assert counts(found.notes)["extra"] == 1


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (b"/a|%s|1|0|0|0644|2|0|0\n", "not `path|hash"),
        (b"/a|%s|1|0|0|0644|7|0|0|\n", "not `path|hash"),
        (b"/a|%s|1|0|0|9|2|0|0|\n", "not `path|hash"),
        (b"/a|%s|1|0|0|0644|2|1e9|0|\n", "not `path|hash"),
        (b"/a|%s|1|0|0|0777|1|0|0|\n", "link to nothing"),
        (b"/a|%s|1|0|0|0777|1|0|0|a\0b\n", "link to nothing"),
        (b"/a|%s|1|0|0|0600|3|0|0|8\n", "a is a device with the numbers '8'"),
        (b"/a|%s|1|0|0|0600|5|0|0|9999999999,0\n", "device number"),
        (b"/a|%s|0|0|0|0644|2|0|0|\n", "not the MD5 of nothing"),
    ],
)
def test_lines_of_ten_fields_that_are_none(row: bytes, word: str) -> None:
    [found] = faults(row % A, "ays3")
    assert word in found


def test_losses_of_the_third_form() -> None:
    entries = tree(
        Entry(b"", "d", 0o700, 0, 0),
        file(b"a", mtime=1_500_000_000),
        replace(file(b"b"), first=b"a"),
        replace(file(b"c"), xattrs=((b"user.a", b"b"),)),
        file(b"new\nline"),
        file(b"not utf\xff"),
        Entry(b"l1", "l", 0o777, 0, 0, target=b"a|b"),
        Entry(b"l2", "l", 0o777, 0, 0, target=b"a "),
        Entry(b"l3", "l", 0o777, 0, 0, target=b" a"),
        Entry(b"d|e", "d", 0o755, 0, 0),
        file(b"d|e/f"),
    )
    data, losses = written(entries, "ays3")
    assert losses == {"top": 1, "time": 1, "hard-link": 1, "xattrs": 1, "name": 6}
    assert [*old_read_3(data)] == ["/a", "/b", "/c", "/l3"]
    with pytest.raises(SpecError) as caught:
        written(entries, "ays3", lossy=False)
    assert [str(fault).split(" (")[0] for fault in caught.value.faults] == [
        "d|e: holds `|`, which separates the fields",
        "d|e/f: holds `|`, which separates the fields",
        "l1: its target holds `|`, which separates the fields",
        "l2: its target ends in white space, which the old reader takes away",
        "new?line: holds what ends a line",
        "not utf\\xff: is not UTF-8",
    ]


@given(made=trees.entries())
@settings(max_examples=60)
def test_what_the_third_form_cannot_say_is_told_and_all_else_comes_back(
    made: tuple[FileList, dict[bytes, bytes]],
) -> None:
    entries, _ = made
    done = write_list(entries, "ays3", Writing(md5=fake_md5, lossy=True))
    back = {Named("md5", fake_md5(entry)): entry.sha256 for entry in entries.values() if entry.kind == "f"}
    found = read_list(done.data, "ays3")
    assert {note.kind for note in found.notes} <= {"parents"}
    got = found.resolved(back)
    losses = counts(done.losses)
    assert [*got] == [*dict.fromkeys([b"", *(path for path in entries if path in got)])], "nothing is added"
    assert len(entries) - len(got) == losses.get("name", 0)
    old = old_read_3(done.data)
    for path, entry in entries.items():
        if path not in got or not path:
            continue
        said = replace(entry, xattrs=(), first=b"", mtime=entry.mtime // 10**9 * 10**9)
        assert got[path] == said
        assert old[f"/{path.decode()}"][6:8] == [said.mtime // 10**9] * 2
    present = [entry for path, entry in entries.items() if path in got]
    assert losses.get("xattrs", 0) == sum(bool(entry.xattrs) for entry in present)
    assert losses.get("hard-link", 0) == sum(bool(entry.first) for entry in present)
    assert ("top" in losses) == (entries[b""].mode != 0o755 or entries[b""].mtime != 0)


@given(made=trees.entries())
@settings(max_examples=50)
def test_what_the_first_form_cannot_say_is_told(made: tuple[FileList, dict[bytes, bytes]]) -> None:
    entries, _ = made
    done = write_list(entries, "ays1", Writing(md5=fake_md5, lossy=True))
    back = {Named("md5", fake_md5(entry)): entry.sha256 for entry in entries.values() if entry.kind == "f"}
    got = read_list(done.data, "ays1").resolved(back)
    left_out = sum(note.count for note in done.losses if note.left_out)
    assert len(entries) - len(got) == left_out
    same = all(replace(entries[path], mtime=0) == entry for path, entry in got.items())
    timeless = not any(entries[path].mtime for path in got)
    assert (same and timeless) == (not [note for note in done.losses if not note.left_out])
    assert len(old_read_1(done.data)) == len(done.lines)


# -- contents ------------------------------------------------------------------------------------------


def read(data: bytes) -> ReadList:
    return read_list(data, "ays1")


def test_each_content_is_taken_once() -> None:
    asked: list[tuple[Named, int]] = []

    def take(named: Named, size: int) -> str:
        asked.append((named, size))
        return SHA

    found = resolve(read(b"/a|%s|1\n/b|%s|1\n/c|%s|2\n" % (A, A, B)), take)
    assert asked == [(Named("md5", A.decode()), 1), (Named("md5", B.decode()), 2)]
    assert [entry.sha256 for entry in found.values()] == ["", SHA, SHA, SHA]


def test_contents_that_cannot_be_had_are_told_together() -> None:
    def take(named: Named, _size: int) -> str:
        if named.digest == A.decode():
            return SHA
        raise Missing(f"no {named}")

    found = read(b"/a|%s|1\n/b|%s|2\n/c|%s|3\n" % (A, B, md5(b"ccc").encode()))
    with pytest.raises(StoreError, match="2 contents of the list could not be had") as caught:
        resolve(found, take)
    assert f"no md5:{B.decode()} (b)" in caught.value.detail
    with pytest.raises(StoreError, match="3 files without content"):
        found.resolved({})

    def full(_named: Named, _size: int) -> str:
        asked.append(_named)
        raise StoreError("the disk is full")

    asked: list[Named] = []
    with pytest.raises(StoreError, match="the disk is full"):
        resolve(found, full)
    assert len(asked) == 1, "nothing else can be stored"


# -- what AYS did wrong: the numbers are those of the page of lists --------------------------------------


def scanned(root: Path) -> FileList:
    return trees.scanned(root)


def test_ays_d02_every_kind_is_listed_as_what_it_is(tmp_path: Path) -> None:
    """Links were followed: stored twice, an error where they dangle, no end where they lead to themselves."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "empty").mkdir(mode=0o700)
    (tmp_path / "lib/libx.so.1.2").write_bytes(b"a")
    (tmp_path / "lib/libx.so.1").symlink_to("libx.so.1.2")
    (tmp_path / "dangling").symlink_to("/nowhere")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "tool").write_bytes(b"a")
    (tmp_path / "tool").chmod(0o4711)
    os.mkfifo(tmp_path / "pipe", 0o600)
    entries = scanned(tmp_path)
    for form in ("buildstep", "ays3"):
        data, losses = written(entries, form)
        assert not any(word in losses for word in ("name", "link", "device", "directory")), form
        found = read_list(data, form).entries
        assert {path: (entry.kind, entry.mode, entry.target) for path, entry in found.items() if path} == {
            path: (entry.kind, entry.mode, entry.target) for path, entry in entries.items() if path
        }
    data, losses = written(entries, "ays1")
    assert [*old_read_1(data)] == ["/lib/libx.so.1.2", "/tool"]
    assert losses["link"] == 4
    assert losses["directory"] == losses["device"] == 1


@pytest.mark.parametrize("form", LISTS)
def test_ays_d03_a_path_has_one_line_however_often_it_was_added(form: str) -> None:
    """A recipe of 10 parts made 55 pairs of what to list."""
    parts = [(f"part{n}", n) for n in range(10)]
    again = [parts[n] for last in range(10) for n in range(last + 1)]
    assert len(again) == 55
    entries = tree(*(file(name.encode(), b"a" * n) for name, n in again))
    data, _ = written(entries, form)
    assert len(data.splitlines()) == 10 + (2 if form == "buildstep" else 0)
    assert data == written(dict(reversed(entries.items())), form)[0] or form == "buildstep"


def test_ays_d17_no_name_is_left_out_for_what_it_is_like(tmp_path: Path) -> None:
    """`*.git*`, meant for .git directories, took every path in which there is `.git`; and `*.pyc`."""
    names = ["x.github.io/index.html", ".gitignore", "foo.gitx", "src/.git/HEAD", "mod.pyc"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"a")
    data, _ = written(scanned(tmp_path), "ays1", lossy=False)
    assert sorted(old_read_1(data)) == sorted(f"/{name}" for name in names)
