"""Privileges that a tree gained and lost; capabilities decoded as the kernel writes them."""

from __future__ import annotations

import struct

import pytest

from buildstep.files.compare import Listing, compare
from buildstep.files.compare_privileges import CAPABILITIES, Privilege, capabilities, privileges, shifts
from buildstep.tree.entry import Entry

A, B = "a" * 64, "b" * 64
NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
"""What `setcap cap_net_raw=ep` writes."""


def test_names_are_by_number() -> None:
    # linux/capability.h: CAP_SETUID 7, CAP_NET_RAW 13, CAP_SYS_ADMIN 21, CAP_SETFCAP 31, CAP_SYSLOG 34
    assert [CAPABILITIES.index(name) for name in ("setuid", "net_raw", "sys_admin", "setfcap", "syslog")] == [
        7, 13, 21, 31, 34,
    ]  # fmt: skip
    assert len(CAPABILITIES) == 41
    assert CAPABILITIES[40] == "checkpoint_restore"


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (NET_RAW, ("cap_net_raw=ep",)),
        (struct.pack("<5I", 0x02000000, 1 << 13, 0, 0, 0), ("cap_net_raw=p",)),
        (struct.pack("<5I", 0x02000001, 1, 1 | 2, 0, 0), ("cap_chown=eip", "cap_dac_override=ei")),
        (struct.pack("<5I", 0x02000001, 0, 0, 1 << (39 - 32), 0), ("cap_bpf=ep",)),
        (struct.pack("<5I", 0x02000000, 0, 0, 1 << 31, 0), ("cap_63=p",)),
        (struct.pack("<6I", 0x03000001, 1 << 21, 0, 0, 0, 100000), ("cap_sys_admin=ep [rootid=100000]",)),
        (struct.pack("<3I", 0x01000001, 1 << 10, 0), ("cap_net_bind_service=ep",)),
        (struct.pack("<5I", 0x02000000, 0, 0, 0, 0), ()),
        (b"\1\2\3", ("unknown:010203",)),
        (NET_RAW + b"\0", (f"unknown:{NET_RAW.hex()}00",)),
        (struct.pack("<5I", 0x04000001, 1, 0, 0, 0), ("unknown:0100000401000000000000000000000000000000",)),
    ],
)
def test_capabilities_are_decoded(value: bytes, names: tuple[str, ...]) -> None:
    assert capabilities(value) == names


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (Entry(b"x", "f", 0o4755, 0, 0), {Privilege("setuid", "as uid 0")}),
        (Entry(b"x", "f", 0o2755, 0, 5), {Privilege("setgid", "as gid 5")}),
        (Entry(b"x", "d", 0o2755, 0, 5), set()),
        (Entry(b"x", "d", 0o1777, 0, 0), {Privilege("sticky"), Privilege("world-writable")}),
        (Entry(b"x", "f", 0o1666, 0, 0), {Privilege("world-writable")}),
        (Entry(b"x", "l", 0o777, 0, 0, target=b"y"), set()),
        (Entry(b"x", "b", 0o600, 0, 0, rdev=(8, 1)), {Privilege("device", "b 8:1")}),
        (
            Entry(b"x", "f", 0o755, 0, 0, xattrs=((b"security.capability", NET_RAW), (b"user.a", b""))),
            {Privilege("capability", "cap_net_raw=ep")},
        ),
    ],
)
def test_an_entry_gives(entry: Entry, found: set[Privilege]) -> None:
    assert privileges(entry) == found


def moved(old: Entry | None, new: Entry | None) -> list[tuple[str, bytes, str, str]]:
    sides = [Listing.of({entry.path: entry} if entry else {}) for entry in (old, new)]
    return [
        (it.change, it.path, it.privilege.kind, it.privilege.detail) for it in shifts(compare(*sides).changes)
    ]


def test_what_is_gained_and_lost() -> None:
    plain, setuid = Entry(b"x", "f", 0o755, 0, 0, 1, A), Entry(b"x", "f", 0o4755, 0, 0, 1, A)
    assert moved(plain, setuid) == [("gained", b"x", "setuid", "as uid 0")]
    assert moved(setuid, plain) == [("lost", b"x", "setuid", "as uid 0")]
    assert moved(None, setuid) == [("gained", b"x", "setuid", "as uid 0")]
    assert moved(setuid, None) == [("lost", b"x", "setuid", "as uid 0")]
    assert moved(setuid, setuid) == []


def test_another_owner_of_a_setuid_program_is_another_privilege() -> None:
    found = moved(Entry(b"x", "f", 0o4755, 33, 0, 1, A), Entry(b"x", "f", 0o4755, 0, 0, 1, A))
    assert found == [("gained", b"x", "setuid", "as uid 0"), ("lost", b"x", "setuid", "as uid 33")]


def test_another_content_of_a_setuid_program_is_told() -> None:
    found = moved(Entry(b"x", "f", 0o4755, 0, 0, 1, A), Entry(b"x", "f", 0o4755, 0, 0, 1, B))
    assert found == [("content", b"x", "setuid", "as uid 0")]
    assert moved(Entry(b"x", "f", 0o666, 0, 0, 1, A), Entry(b"x", "f", 0o666, 0, 0, 1, B)) == []


def test_a_setuid_program_that_moved_is_new_where_it_is() -> None:
    found = moved(Entry(b"bin/x", "f", 0o4755, 0, 0, 1, A), Entry(b"opt/x", "f", 0o4755, 0, 0, 1, A))
    assert found == [("lost", b"bin/x", "setuid", "as uid 0"), ("gained", b"opt/x", "setuid", "as uid 0")]


def test_only_the_capability_that_came_is_gained() -> None:
    both = struct.pack("<5I", 0x02000001, 1 << 13 | 1 << 21, 0, 0, 0)
    old, new = (
        Entry(b"x", "f", 0o755, 0, 0, 1, A, xattrs=((b"security.capability", value),))
        for value in (NET_RAW, both)
    )
    assert moved(old, new) == [("gained", b"x", "capability", "cap_sys_admin=ep")]
    assert moved(new, old) == [("lost", b"x", "capability", "cap_sys_admin=ep")]
