"""What a change of a tree lets its users do: setuid, capabilities, world-writable paths, device nodes."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from buildstep.files.compare import Aspect, Change
from buildstep.tree.entry import Entry

Kind = Literal["setuid", "setgid", "capability", "sticky", "world-writable", "device"]

CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
"""Names by number, as in linux/capability.h of Linux 6.12, without their `CAP_`."""

_XATTR = b"security.capability"
_REVISION, _EFFECTIVE = 0xFF000000, 0x000001
_FORMS = {0x01000000: (1, 12), 0x02000000: (2, 20), 0x03000000: (2, 24)}
"""VFS_CAP_REVISION_1 to 3: pairs of 32-bit masks, and bytes; the last has the uid of a namespace's root."""

NEEDED: dict[Kind, Aspect] = {
    "setuid": "mode", "setgid": "mode", "sticky": "mode", "world-writable": "mode",
    "capability": "xattrs", "device": "device",
}  # fmt: skip
"""What a list must be able to tell for each kind to be known."""


@dataclass(frozen=True, order=True, slots=True)
class Privilege:
    """Something that a path gives. detail: whose or which: `as uid 0`, `cap_net_raw=ep`, `c 1:3`."""

    kind: Kind
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Shift:
    """A privilege that a path gained or lost, or kept while its content became another (`content`)."""

    path: bytes
    change: Literal["gained", "lost", "content"]
    privilege: Privilege


def capabilities(value: bytes) -> tuple[str, ...]:
    """Return the capabilities of a `security.capability` attribute, each as getcap(8) writes one alone.

    Of a user namespace's root they have ` [rootid=UID]` behind them. What is not of a known form (struct
    vfs_cap_data in linux/capability.h) is returned whole in hex.
    """
    magic = int.from_bytes(value[:4], "little")
    pairs, size = _FORMS.get(magic & _REVISION, (0, 0))
    if not pairs or len(value) != size:
        return (f"unknown:{value.hex()}",)
    numbers = struct.unpack(f"<{(size - 4) // 4}I", value[4:])
    permitted = sum(numbers[2 * at] << 32 * at for at in range(pairs))
    inheritable = sum(numbers[2 * at + 1] << 32 * at for at in range(pairs))
    root = f" [rootid={numbers[4]}]" if len(numbers) > 2 * pairs else ""
    effective = bool(magic & _EFFECTIVE)
    found = []
    for number in range(64):
        bit = 1 << number
        if (permitted | inheritable) & bit:
            name = CAPABILITIES[number] if number < len(CAPABILITIES) else str(number)
            flags = ("e" * effective) + ("i" * bool(inheritable & bit)) + ("p" * bool(permitted & bit))
            found.append(f"cap_{name}={flags}{root}")
    return tuple(found)


def privileges(entry: Entry | None) -> frozenset[Privilege]:
    """Return what an entry gives; of setgid only that of files, as a directory's only sets a group."""
    if entry is None or entry.kind == "l":
        return frozenset()
    found = set()
    if entry.kind == "f":
        if entry.mode & 0o4000:
            found.add(Privilege("setuid", f"as uid {entry.uid}"))
        if entry.mode & 0o2000:
            found.add(Privilege("setgid", f"as gid {entry.gid}"))
        for name, value in entry.xattrs:
            if name == _XATTR:
                found |= {Privilege("capability", each) for each in capabilities(value)}
    if entry.kind == "d" and entry.mode & 0o1000:
        found.add(Privilege("sticky"))
    if entry.mode & 0o002:
        found.add(Privilege("world-writable"))
    if entry.kind in "cb":
        found.add(Privilege("device", f"{entry.kind} {entry.rdev[0]}:{entry.rdev[1]}"))
    return frozenset(found)


def shifts(changes: Iterable[Change]) -> list[Shift]:
    """Return the privileges that changes of a tree gave and took, sorted by kind and path.

    A file that moved has lost them where it was and gained them where it is: whoever looks for a new setuid
    program looks at paths.
    """
    found = []
    for change in changes:
        old, new = change.old, change.new
        before, after = privileges(old), privileges(new)
        if old is not None and new is not None and old.path == new.path:
            kept = before & after if "content" in change.what else frozenset()
            found += [
                Shift(new.path, "content", it) for it in kept if it.kind in ("setuid", "setgid", "capability")
            ]
            before, after = before - after, after - before
        if old is not None:
            found += [Shift(old.path, "lost", it) for it in before]
        if new is not None:
            found += [Shift(new.path, "gained", it) for it in after]
    kinds = list(NEEDED)
    return sorted(found, key=lambda it: (kinds.index(it.privilege.kind), it.path, it.change, it.privilege))
