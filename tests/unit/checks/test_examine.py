"""What the rules find in a tree, what is allowed, and what a finding leads to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from buildstep.checks import RULES, in_force
from buildstep.checks.examine import allowed, examine
from buildstep.checks.image_tree import ImageTree
from buildstep.checks.interface import Subject
from buildstep.events import Bus, Checked, Event, Note
from buildstep.spec.check_rules import RULES as NAMES
from buildstep.tree.entry import Entry, FileList


def tree(*rows: Entry) -> FileList:
    return {b"": Entry(b"", "d", 0o755, 0, 0), **{row.path: row for row in rows}}


def file(path: bytes, mode: int = 0o644, **more: Any) -> Entry:
    return Entry(path, "f", mode, 0, 0, **{"size": 10, "sha256": "0" * 64, **more})


def folder(path: bytes, mode: int = 0o755) -> Entry:
    return Entry(path, "d", mode, 0, 0)


def link(path: bytes, target: bytes) -> Entry:
    return Entry(path, "l", 0o777, 0, 0, target=target)


def told(
    rule: str,
    entries: FileList,
    *,
    base: FileList | None = None,
    checks: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
    packaged: Sequence[bytes] = (),
    **facts: Any,
) -> tuple[Checked, list[Event]]:
    """How a rule ended, and all events."""
    events: list[Event] = []
    subject = Subject(
        tree=ImageTree(entries),
        base=base or {},
        added=[entry for path, entry in entries.items() if (base or {}).get(path) is not entry],
        own=lambda path: path not in packaged,
        **facts,
    )
    examine(in_force(checks or {}), subject, {rule: allow}, Bus(events.append))
    return next(e for e in events if isinstance(e, Checked) and e.check == rule), events


def test_the_table_has_the_names_that_settings_have() -> None:
    assert [rule.name for rule in RULES] == list(NAMES)
    for rule in RULES:
        assert callable(rule.load())


@pytest.mark.parametrize(
    ("target", "leads"),
    [
        (b"file", True), (b"./file", True), (b"../d/file", True), (b"/d/file", True), (b"gone", False),
        (b"file/x", False), (b"/loop", False), (b"/up/file", True), (b"/proc/self/mounts", True),
        (b"/run/x/y", True), (b"../../../../d/file", True), (b"/dd/d/file", False), (b".", True),
    ],
)  # fmt: skip
def test_where_a_link_leads(target: bytes, leads: bool) -> None:
    entries = tree(
        folder(b"d"), file(b"d/file"), link(b"d/l", target), link(b"loop", b"loop"), link(b"up", b"d")
    )
    found, _ = told("dangling-link", entries, allow=["/loop"])
    assert (found.result == "passed") == leads
    if not leads:
        assert found.lines == (f"/d/l leads to {target.decode()}, which is not in the image",)
        assert found.result == "failed"


def test_the_root_of_a_zone_image_is_in_a_directory() -> None:
    entries = {
        b"": folder(b""), b"root": folder(b"root"), b"root/a": file(b"root/a"),
        b"root/l": link(b"root/l", b"/a"), b"root/m": link(b"root/m", b"/root/a"), b"x": link(b"x", b"gone"),
    }  # fmt: skip
    seen = ImageTree(entries, b"root")
    assert seen.leads(b"/a")
    assert not seen.leads(b"/root/a")
    assert seen.inside(b"x") is None
    assert dict(seen.walk()).keys() == {b"", b"a", b"l", b"m"}


def test_volumes_are_filled_when_the_image_runs() -> None:
    seen = ImageTree({b"": folder(b""), b"l": link(b"l", b"/data/up")}, volumes=("/data", "/srv/v/"))
    for path, leads in {
        "/l": True,
        "/data": True,
        "/srv/v/x": True,
        "/database": False,
        "/srv/x": False,
    }.items():
        assert seen.leads(path.encode()) == leads, path


def test_what_everybody_can_write() -> None:
    entries = tree(
        file(b"a", 0o666), folder(b"b", 0o1777), folder(b"c", 0o777), file(b"d", 0o644), link(b"e", b"a")
    )
    found, _ = told("world-writable", entries)
    assert [text.split()[0] for text in found.lines] == ["/a", "/c"]
    assert "mode 0666" in found.lines[0]


def test_new_rights_of_programs_are_told_and_old_ones_are_not() -> None:
    old = file(b"old", 0o4755)
    entries = tree(
        old, file(b"new", 0o4755), file(b"more", 0o6755), file(b"lock", 0o2644), file(b"plain", 0o755)
    )
    base = {b"old": file(b"old", 0o4755, size=3), b"more": file(b"more", 0o4755)}
    found, _ = told("setuid", entries, base=base)
    assert [text.split()[0] for text in found.lines] == ["/new", "/more"]
    assert "setuid (runs as uid 0) and setgid (runs as gid 0)" in found.lines[1]


def test_new_capabilities_are_told() -> None:
    has: dict[str, Any] = {"xattrs": ((b"security.capability", b"\1\2"),)}
    found, _ = told("capability", tree(file(b"a", **has), file(b"b", **has)), base={b"a": file(b"a", **has)})
    assert [text.split()[0] for text in found.lines] == ["/b"]


def test_owners_without_a_name_are_a_warning_where_the_image_has_tables() -> None:
    entries = tree(file(b"a"), Entry(b"b", "f", 0o644, 1000, 0))
    found, _ = told("unknown-owner", entries, users={0}, groups={0})
    assert (found.result, found.lines) == (
        "warned", ("/b belongs to uid 1000, which has no name in the image",)
    )  # fmt: skip
    assert told("unknown-owner", entries)[0].result == "passed"


def test_a_tree_over_its_budget_names_the_largest_files() -> None:
    entries = tree(file(b"a", size=600), file(b"b", size=500), file(b"c", size=500, first=b"b"))
    checks = {"budget": "1K"}
    found, _ = told("budget", entries, checks=checks, budget=1024)
    assert found.result == "failed"
    assert found.message == "all files have 1.1 KiB, and the budget is 1.0 KiB; the largest:"
    assert [line.split()[0] for line in found.lines[1:]] == ["/a", "/b"]
    assert told("budget", entries, checks=checks, budget=1100)[0].result == "passed"
    assert all(rule.name != "budget" for rule, _ in in_force({}))


def test_what_is_allowed_warned_of_or_off() -> None:
    entries = tree(file(b"a", 0o666))
    assert told("world-writable", entries, allow=["/a"])[0].result == "passed"
    found, _ = told("world-writable", entries, checks={"rules": {"world-writable": "warn"}})
    assert (found.result, found.message) == ("warned", "/a can be written by everybody (mode 0666)")
    assert all(rule.name != "setuid" for rule, _ in in_force({"rules": {"setuid": "off"}}))


def test_findings_in_files_of_packages_are_a_note() -> None:
    entries = tree(file(b"usr/bin/sudo", 0o4755), link(b"l", b"gone"))
    packaged = [b"usr/bin/sudo", b"l"]
    found, events = told("setuid", entries, packaged=packaged)
    assert found.result == "passed"
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes == ["setuid, in files of packages: /usr/bin/sudo is setuid (runs as uid 0), mode 4755"]
    assert told("dangling-link", entries, packaged=packaged)[0].result == "passed"


def test_many_findings_are_told_in_part() -> None:
    found, _ = told("world-writable", tree(*(file(b"%03d" % n, 0o666) for n in range(60))))
    assert len(found.lines) == 51
    assert found.lines[-1] == "and 10 more findings"
    assert found.message.endswith("(and 59 more)")


@pytest.mark.parametrize(
    ("glob", "path", "fits"),
    [
        ("/a/b", b"a/b", True), ("a", b"a/b", True), ("/a/**", b"a/b/c", True), ("*.so", b"x/y.so", True),
        ("/a", b"ab", False), ("/x/*.py", b"x/y/z.py", True), ("/b", b"a/b", False),
    ],
)  # fmt: skip
def test_globs_of_what_is_allowed(glob: str, path: bytes, fits: bool) -> None:
    assert allowed([glob])(path) is fits
