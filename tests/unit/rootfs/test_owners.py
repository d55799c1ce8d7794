"""Who owns the files of a proto directory in the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.rootfs.owners import OwnerRule, hard_link_groups, owner_rule, recorded
from buildstep.system.root import Root
from buildstep.tree.entry import Entry


def test_owners_by_name_number_and_glob(base: Root) -> None:
    rule = owner_rule({"srv/**": "www", "etc/x": "33:adm", "*.keep": "keep", "*": "0:root"}, base)
    assert rule.of("srv/a/b") == (33, 55)
    assert rule.of("srv") == (0, 0)
    assert rule.of("etc/x") == (33, 4)
    assert rule.of("a.keep") is None
    assert rule.of("other") == (0, 0)
    assert not rule.uniform


def test_the_first_rule_that_matches_wins(base: Root) -> None:
    rule = owner_rule({"srv/**": "1:1", "srv/x": "2:2", "*": "0:0"}, base)
    assert rule.of("srv/x") == (1, 1)


def test_one_rule_for_all_is_uniform(base: Root) -> None:
    assert owner_rule({"*": "www:adm"}, base) == OwnerRule((("*", (33, 4)),))
    assert owner_rule({"*": "www:adm"}, base).uniform
    assert not owner_rule({"srv/**": "www:adm"}, base).uniform


def test_every_unknown_name_is_told_with_its_place(base: Root) -> None:
    with pytest.raises(SpecError) as caught:
        owner_rule({"a": "nobody-there:root", "b": "root:no-group", "c": "bad", "*": "root"}, base)
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("$.build.owner['a']", "the image has no user 'nobody-there'"),
        ("$.build.owner['b']", "the image has no group 'no-group'"),
        ("$.build.owner['c']", "the image has no user 'bad'"),
        ("$.build.owner['c']", "the image has no group 'bad'"),
    ]


def test_names_are_looked_up_in_the_image_only(base: Root, tmp_path: Path) -> None:
    (tmp_path / "agent-passwd").write_text("www:x:99:99::/:\n")
    (base.path / "etc/passwd").unlink()
    (base.path / "etc/passwd").symlink_to(tmp_path / "agent-passwd")
    with pytest.raises(SpecError):
        owner_rule({"*": "www"}, base)
    assert owner_rule({"*": "root:root"}, base).of("x") == (0, 0), "root needs no table"


def test_what_is_recorded_where_owners_cannot_be_set(base: Root) -> None:
    rule = owner_rule({"k": "keep", "lib/**": "7:7", "*": "www"}, base)
    before = {
        b"log": Entry(b"log", "f", 0o2640, 0, 4, xattrs=((b"security.capability", b"x"), (b"user.old", b""))),
        b"tmp": Entry(b"tmp", "d", 0o1777, 5, 6),
    }
    owner = recorded(rule, before, {b"x": b"x", b"k": b"k", b"usr/lib/y": b"lib/y"})
    assert owner(Entry(b"x", "f", 0o644, 1000, 1000)) == (33, 55)
    assert owner(Entry(b"k", "f", 0o644, 1000, 1000)) == (1000, 1000)
    assert owner(Entry(b"usr/lib/y", "f", 0o644, 1000, 1000)) == (7, 7), "rules are for paths in the proto"
    assert owner(Entry(b"made", "f", 0o644, 1000, 1000)) == (0, 0), "what the build makes is root's"
    log = Entry(b"log", "f", 0o640, 1000, 1000, xattrs=((b"user.new", b""),))
    assert owner(log) == (0, 4)
    assert log.mode == 0o2640
    assert log.xattrs == ((b"security.capability", b"x"), (b"user.new", b""))
    tmp = Entry(b"tmp", "d", 0o700, 1000, 1000)
    assert owner(tmp) == (5, 6)
    assert tmp.mode == 0o700, "it was changed on purpose"


def test_hard_links_are_grouped_among_what_was_copied(tmp_path: Path) -> None:
    for name in ("a", "b", "single"):
        (tmp_path / name).write_text(name)
    (tmp_path / "c").hardlink_to(tmp_path / "a")
    (tmp_path / "excluded").hardlink_to(tmp_path / "b")
    copied = {"a": "z", "b": "b", "c": "c", "single": "single"}
    assert hard_link_groups(tmp_path, copied) == [["c", "a"]]
