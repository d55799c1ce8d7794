"""User namespaces: whether we are in one, and what a user without root needs to make one."""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path

from buildstep.errors import CommandFailed
from buildstep.system import process, tools

_CAP_SYS_ADMIN = 21  # linux/capability.h
_TOOLS = ("newuidmap", "newgidmap", "unshare")

ID_TABLES = {Path("/etc/subuid"): "--add-subuids", Path("/etc/subgid"): "--add-subgids"}
"""The tables of ids that users may map in a namespace (subuid(5)), with the option of usermod(8) for each."""


def in_user_namespace() -> bool:
    """Return whether our root is not the machine's: a user namespace maps some of its ids to ours."""
    try:
        return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def may_mount() -> bool:
    """Return whether this process has the right to mount, in the namespace that it is in."""
    if not sys.platform.startswith("linux"):
        return os.geteuid() == 0
    try:
        found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return os.geteuid() == 0
    return found is not None and bool(int(found[1], 16) >> _CAP_SYS_ADMIN & 1)


@functools.cache  # asked for each file; a process stays where it is
def outer_owner() -> tuple[int, int]:
    """Return the uid and gid that the CI host knows our root by: (0, 0) outside of a user namespace."""
    return _outer(Path("/proc/self/uid_map")), _outer(Path("/proc/self/gid_map"))


def has_owner(owner: tuple[int, int]) -> bool:
    """Return whether a file can be given this uid and gid here: a user namespace has some of them only."""
    return all(
        any(inner <= number < inner + count for inner, _, count in _rows(Path(table)))
        for number, table in zip(owner, ("/proc/self/uid_map", "/proc/self/gid_map"), strict=True)
    )


def _outer(table: Path) -> int:
    return next((outer for inner, outer, _ in _rows(table) if inner == 0), 0)


def _rows(table: Path) -> list[tuple[int, ...]]:
    """Return the rows of an id map (user_namespaces(7)): first id here, first id outside, how many."""
    try:
        return [tuple(map(int, row.split())) for row in table.read_text().splitlines()]
    except OSError:  # no Linux: all ids are
        return [(0, 0, 1 << 32)]


def missing() -> list[tuple[str, str]]:
    """Return what this user lacks to be root of a user namespace with many ids, each with its remedy.

    Package scripts need many user ids. An ordinary user has them when both tables give a range and newuidmap
    is there to hand it out. Whether the kernel allows the namespace is not asked here.
    """
    found = [
        (f"the program {tool} is not installed", tools.getting(tool))
        for tool in _TOOLS
        if process.find(tool) is None
    ]
    for table, option in ID_TABLES.items():
        if range_of(table) is None:
            remedy = f"as root: usermod {option} 100000-165535 {_user_name()}"
            found.append((f"{table} has no range for {_user_name()}", remedy))
    return found


def lacks(*, had: bool = False) -> list[tuple[str, str]]:
    """Return what keeps this user from a build as root of a user namespace, each with its remedy.

    Empty where it can be had: what `missing` looks at is there, and the kernel made all the namespaces of a
    build for us once. A machine may have the ranges and forbid the rest: AppArmor's rule for user
    namespaces, a container whose /proc is masked. Root needs one where it may not mount, and no ranges.

    had: this user had one before, so the kernel is not asked: that takes processes, and it will say itself.
    """
    if not sys.platform.startswith("linux"):
        return [("this is not Linux", "build on Linux, or as root")]
    if os.geteuid() == 0:
        if had:
            return []
        from buildstep.system import root_namespace  # only root of a container asks for it

        refusal = root_namespace.refusal()
        told = f"this root may not mount (it lacks CAP_SYS_ADMIN), and {refusal}"
        return [(told, root_namespace.REMEDY)] if refusal else []
    found = missing()
    if _max_user_namespaces() == 0:
        found.append(("user namespaces are forbidden", "as root: sysctl user.max_user_namespaces=10000"))
    if not found and not had and (refusal := _refusal()):
        allow = "let users have user namespaces (sysctl user.max_user_namespaces, AppArmor, seccomp)"
        found.append((f"the kernel refused a user namespace: {refusal}", allow))
    return found


def told(lacking: list[tuple[str, str]]) -> str:
    """Return the rows of `lacks` as the detail of an error."""
    return "\n".join(f"  missing: {what} ({remedy})" for what, remedy in lacking)


@functools.cache  # a command asks more than once, and it takes a process
def _refusal() -> str:
    """Return why the kernel makes no namespaces for us; empty if it does."""
    inner = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc")
    try:
        process.query(enter_argv(*inner, "--", "true"), timeout=20.0)
    except CommandFailed as error:
        return error.detail.partition("\ncommand: ")[0].strip() or error.message
    return ""


def _max_user_namespaces() -> int | None:
    """Return how many there may be; None where the kernel does not say."""
    try:
        return int(Path("/proc/sys/user/max_user_namespaces").read_text())
    except (OSError, ValueError):
        return None


def enter_argv(*command: str) -> list[str]:
    """Return the command line that runs a command as root of a user namespace with all ids of the user.

    It may mount there: its mount namespace is that user namespace's.
    """
    mounts = ("--mount", "--propagation", "slave")
    return ["unshare", "--user", "--map-auto", "--map-root-user", *mounts, "--", *command]


@functools.cache
def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def range_of(table: Path) -> tuple[int, int] | None:
    """Return the first range of ids that a table (subuid(5)) gives this user: its first id, and how many."""
    try:
        rows = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for name, first, count in (row.split(":") for row in rows if row.count(":") == 2):
        if name in (_user_name(), str(os.getuid())) and first.isdigit() and count.isdigit():
            return int(first), int(count)
    return None
