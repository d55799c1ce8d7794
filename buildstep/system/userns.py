"""User namespaces: whether we are in one, and what a user without root needs to make one."""

from __future__ import annotations

import os
from pathlib import Path

from buildstep.system import process

_TOOLS = {"newuidmap": "uidmap", "newgidmap": "uidmap", "unshare": "util-linux"}
"""Program to the Debian package that has it."""

ID_TABLES = {Path("/etc/subuid"): "--add-subuids", Path("/etc/subgid"): "--add-subgids"}
"""The tables of ids that users may map in a namespace (subuid(5)), with the option of usermod(8) for each."""


def in_user_namespace() -> bool:
    """Return whether our root is not the machine's: a user namespace maps some of its ids to ours."""
    try:
        return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def missing() -> list[tuple[str, str]]:
    """Return what this user lacks to be root of a user namespace with many ids, each with its remedy.

    Package scripts need many user ids. An ordinary user has them when both tables give a range and newuidmap
    is there to hand it out. Whether the kernel allows the namespace is not asked here.
    """
    found = [
        (f"the program {tool} is not installed", f"apt-get install {package}")
        for tool, package in _TOOLS.items()
        if process.find(tool) is None
    ]
    names = (_user_name(), str(os.getuid()))
    for table, option in ID_TABLES.items():
        if not _has_range(table, names):
            remedy = f"as root: usermod {option} 100000-165535 {names[0]}"
            found.append((f"{table} has no range for {names[0]}", remedy))
    return found


def enter_argv(*command: str) -> list[str]:
    """Return the command line that runs a command as root of a user namespace with all ids of the user."""
    return ["unshare", "--user", "--map-auto", "--map-root-user", "--", *command]


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _has_range(table: Path, names: tuple[str, ...]) -> bool:
    try:
        rows = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(row.partition(":")[0] in names for row in rows)
