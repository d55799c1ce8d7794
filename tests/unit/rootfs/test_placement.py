"""How a proto directory is laid on a root: which parts go where, who owns what, what is left out."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.rootfs.copy_proto import rules_below
from buildstep.rootfs.owners import OwnerRule, owner_rule, recorded
from buildstep.rootfs.placement import Part, parts
from buildstep.system.root import Root
from buildstep.tree.entry import Entry


@pytest.fixture
def base(tmp_path: Path) -> Root:
    """A base with a merged /usr, links in a chain, and links that would lead out of it."""
    top = tmp_path / "base"
    for folder in ("usr/bin", "usr/lib/x", "run", "etc", "var", "opt/real"):
        (top / folder).mkdir(parents=True)
    (top / "bin").symlink_to("usr/bin")
    (top / "lib").symlink_to("/usr/lib")
    (top / "var/run").symlink_to("/run")
    (top / "var/tmp").symlink_to("../../../../../tmp")
    (top / "opt/one").symlink_to("two")
    (top / "opt/two").symlink_to("/opt/real")
    (top / "opt/nowhere").symlink_to("/gone")
    (top / "opt/loop").symlink_to("loop")
    (top / "opt/file").write_text("x")
    (top / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nwww:x:33:44::/:/bin/sh\nbad:x:y:z::/:\n")
    (top / "etc/group").write_text("root:x:0:\nwww:x:55:\nadm:x:4:\n")
    return Root(top)


def proto(tmp_path: Path, *names: str) -> Path:
    top = tmp_path / "proto"
    for name in names:
        path = top / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return top


TOP = Part("", "")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["etc/x", "usr/bin/y"], [TOP]),
        (["bin/x"], [TOP, Part("bin", "usr/bin")]),
        (["lib/x/y"], [TOP, Part("lib", "usr/lib")]),
        (["var/run/x"], [TOP, Part("var/run", "run")]),
        (["opt/one/x"], [TOP, Part("opt/one", "opt/real")]),
        (["opt/nowhere/x", "opt/loop/x", "opt/file/x"], [TOP]),
        (["var/tmp/x"], [TOP]),
        (["bin/x", "lib/x"], [TOP, Part("bin", "usr/bin"), Part("lib", "usr/lib")]),
    ],
)
def test_a_directory_over_a_link_goes_where_the_link_leads_inside(
    base: Root, tmp_path: Path, names: list[str], found: list[Part]
) -> None:
    assert parts(proto(tmp_path, *names), base) == found


def test_a_link_behind_a_link_is_found(base: Root, tmp_path: Path) -> None:
    (base.path / "usr/lib/deep").symlink_to("/opt/real")
    top = proto(tmp_path, "lib/deep/x")
    assert parts(top, base) == [TOP, Part("lib", "usr/lib"), Part("lib/deep", "opt/real")]


def test_a_link_of_the_proto_is_no_part(base: Root, tmp_path: Path) -> None:
    top = proto(tmp_path, "x")
    (top / "bin").symlink_to("/elsewhere")
    assert parts(top, base) == [TOP]


# Owners.


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


# What is left out, where a part is copied by a run of its own.

EXCLUDES = [
    ["/lib/drop"],
    ["lib/drop"],
    ["drop"],
    ["*.o"],
    ["/lib/*.o"],
    ["/lib"],
    ["/lib/"],
    ["lib/"],
    ["/lib/sub/"],
    ["/lib/sub/deep"],
    ["sub/deep"],
    ["/lib/**"],
    ["/lib/***"],
    ["/lib/*"],
    ["**/deep"],
    ["/**/deep"],
    ["/*"],
    ["+ /lib/", "/*"],
    ["+ /lib/", "+ /lib/keep", "/lib/*", "/other"],
    ["- /lib/sub"],
    ["+ *.o", "/lib/*"],
    ["/other"],
    ["l?b/drop"],
    ["[kl]ib/sub"],
]


@pytest.mark.parametrize("exclude", EXCLUDES, ids=" ".join)
def test_rules_mean_the_same_further_down(tmp_path: Path, exclude: list[str]) -> None:
    """rsync itself is asked: one run from the top against one run of the folder with our rules."""
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    top = proto(tmp_path, "lib/keep", "lib/drop", "lib/a.o", "lib/sub/deep", "lib/sub/b.o", "lib/sub/lib/drop", "other/x")  # fmt: skip

    def copied(source: Path, rules: list[str]) -> set[str]:
        argv = ["rsync", "-r", "-n", "--out-format=%n", *(f"--exclude={rule}" for rule in rules)]
        text = subprocess.run([*argv, f"{source}/", f"{tmp_path}/to/"], check=True, capture_output=True, text=True)  # fmt: skip
        return {row.rstrip("/") for row in text.stdout.splitlines()} - {".", ""}

    whole = {os.path.relpath(name, "lib") for name in copied(top, exclude) if name.startswith("lib/")}
    there = "lib" in copied(top, exclude)
    rules = rules_below(exclude, "lib")
    assert (rules is not None) == there
    assert (copied(top / "lib", rules) if rules is not None else set()) == whole


def test_rules_at_the_top_stay_as_they_are() -> None:
    assert rules_below(["/a", "b/c", "+ d"], "") == ["/a", "b/c", "+ d"]
