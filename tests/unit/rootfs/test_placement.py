"""Where a proto directory's directories go in a root, and its entries as they will be there."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.formats.acl import acl_mode
from buildstep.rootfs.modes import ModeRule
from buildstep.rootfs.owners import OwnerRule
from buildstep.rootfs.placement import Placement, overlay
from buildstep.system.root import Root
from buildstep.tree.entry import Entry, FileList
from tests.unit.rootfs.conftest import placements

TOP = Placement("", "")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["etc/x", "usr/bin/y"], [TOP]),
        (["bin/x"], [TOP, Placement("bin", "usr/bin")]),
        (["lib/x/y"], [TOP, Placement("lib", "usr/lib")]),
        (["var/run/x"], [TOP, Placement("var/run", "run")]),
        (["opt/one/x"], [TOP, Placement("opt/one", "opt/real")]),
        (["opt/nowhere/x", "opt/loop/x", "opt/file/x"], [TOP]),
        (["var/tmp/x"], [TOP]),
        (["bin/x", "lib/x"], [TOP, Placement("bin", "usr/bin"), Placement("lib", "usr/lib")]),
    ],
)
def test_a_directory_over_a_link_goes_where_the_link_leads_inside(
    base: Root, proto: Callable[..., Path], names: list[str], found: list[Placement]
) -> None:
    assert placements(proto(*names), base) == found


def test_a_link_behind_a_link_is_found(base: Root, proto: Callable[..., Path]) -> None:
    (base.path / "usr/lib/deep").symlink_to("/opt/real")
    top = proto("lib/deep/x")
    assert placements(top, base) == [TOP, Placement("lib", "usr/lib"), Placement("lib/deep", "opt/real")]


def test_a_link_of_the_proto_is_no_part(base: Root, proto: Callable[..., Path]) -> None:
    top = proto("x")
    (top / "bin").symlink_to("/elsewhere")
    assert placements(top, base) == [TOP]


def entries_of(*entries: Entry) -> FileList:
    return {entry.path: entry for entry in entries}


def test_entries_get_the_paths_and_owners_of_the_image() -> None:
    found = overlay(
        entries_of(
            Entry(b"bin", "d", 0o755, 1000, 1000),
            Entry(b"bin/a", "f", 0o755, 1000, 1000),
            Entry(b"binary", "f", 0o644, 1000, 1000),
        ),
        [TOP, Placement("bin", "usr/bin")],
        OwnerRule((("bin/a", (5, 6)), ("*", (0, 0)))),
        ModeRule(),
    )
    assert {path: (entry.path, entry.uid, entry.gid) for path, entry in found.items()} == {
        b"usr/bin": (b"usr/bin", 0, 0),
        b"usr/bin/a": (b"usr/bin/a", 5, 6),
        b"binary": (b"binary", 0, 0),
    }


def test_of_two_entries_for_one_path_that_behind_the_link_wins() -> None:
    found = overlay(
        entries_of(Entry(b"bin/a", "f", 0o755, 0, 0), Entry(b"usr/bin/a", "f", 0o600, 0, 0)),
        [TOP, Placement("bin", "usr/bin")],
        OwnerRule((("*", None),)),
        ModeRule(),
    )
    assert {path: entry.mode for path, entry in found.items()} == {b"usr/bin/a": 0o755}


def test_a_hard_link_group_has_the_owner_of_its_first_member() -> None:
    found = overlay(
        entries_of(Entry(b"a", "f", 0o644, 9, 9), Entry(b"z", "f", 0o644, 9, 9, first=b"a")),
        [TOP],
        OwnerRule((("z", (7, 7)), ("*", (1, 2)))),
        ModeRule(),
    )
    assert (found[b"z"].uid, found[b"z"].gid) == (1, 2)


def test_modes_by_rule_in_place_and_what_the_index_knows_stays() -> None:
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, 0xFFFFFFFF) for tag, bits in ((1, 6), (4, 4), (0x10, 4), (0x20, 0))
    )
    xattrs = ((b"system.posix_acl_access", acl),)
    given = entries_of(
        Entry(b"bin", "d", 0o755, 0, 0),
        Entry(b"bin/a", "f", 0o644, 0, 0, xattrs=xattrs),
        Entry(b"bin/b", "f", 0o644, 0, 0),
        Entry(b"bin/c", "f", 0o644, 0, 0, first=b"bin/b"),
        Entry(b"bin/l", "l", 0o777, 0, 0),
    )
    rule = ModeRule((("bin/c", "0600"), ("bin/**", "F0750")))
    found = overlay(given, [TOP], OwnerRule((("*", None),)), rule)
    assert {path: entry.mode for path, entry in found.items()} == {
        b"bin": 0o755, b"bin/a": 0o750, b"bin/b": 0o750, b"bin/c": 0o750, b"bin/l": 0o777,
    }  # fmt: skip
    assert acl_mode(found[b"bin/a"].xattrs[0][1]) == 0o750
    assert given[b"bin/a"].xattrs == xattrs
    assert found[b"bin/b"] is given[b"bin/b"], "it is known by what it is"
