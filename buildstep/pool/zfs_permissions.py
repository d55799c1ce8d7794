"""What a user who is not root may do with ZFS: what `zfs allow` gives, and what it cannot give on Linux."""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Collection

from buildstep.errors import CommandFailed
from buildstep.system import host, process, userns

NEEDED = (
    "acltype", "atime", "clone", "create", "destroy", "mount", "mountpoint", "readonly", "receive", "rename",
    "send", "snapshot", "sync", "userprop",
)  # fmt: skip
"""Every permission without which some call of a build is refused; the guest's tests take each away once."""

_TITLE = re.compile(r"-+ Permissions on (\S+) -+")


def may_mount() -> bool:
    """Say whether this process may mount ZFS. On Linux no `zfs allow` decides that, but a capability."""
    if host.HERE.mount_commands:
        return True  # there `mount` is delegated like the rest, and the kernel has the last word
    return not userns.in_user_namespace() and userns.may_mount()


def missing(dataset: str) -> list[str]:
    """Return the permissions that this user lacks on a dataset; all that are needed if that is unknown."""
    needed = [word for word in NEEDED if word != "acltype" or word in host.HERE.zfs_props]
    try:
        output = process.query(["zfs", "allow", dataset], what="zfs allow").stdout
    except CommandFailed:
        return needed
    have = granted(output, dataset, users=_user(), groups=_groups())
    return [word for word in needed if word not in have]


def advice(dataset: str) -> str:
    """Return the command that gives this user what it lacks; empty if nothing is lacking."""
    lacking = missing(dataset)
    return f"zfs allow {_user()[0]} {','.join(lacking)} {dataset}" if lacking else ""


def granted(output: str, dataset: str, *, users: Collection[str], groups: Collection[str]) -> set[str]:
    """What the output of `zfs allow DATASET` gives to a user by these names, in groups of these names.

    What holds for the dataset alone counts as well, and so does what creating a dataset gives: the first is
    enough to make one, the second for what was made.
    """
    found: set[str] = set()
    sets: dict[str, str] = {}
    place = section = ""
    for row in output.splitlines():
        if title := _TITLE.match(row):
            place, section = title[1], ""
        elif not row.startswith("\t"):
            section = row.rstrip(":")
        elif section == "Permission sets":
            name, _, words = row.strip().partition(" ")
            sets.setdefault(name, words)  # the nearest dataset comes first, and wins
        elif section != "Local permissions" or place == dataset:
            found.update(_of_row(section, row.split(), users, groups))
    unread = [word for word in found if word.startswith("@")]
    while unread:
        inner = {word for word in sets.get(unread.pop(), "").split(",") if word} - found
        found |= inner
        unread += [word for word in inner if word.startswith("@")]
    return found


def _of_row(section: str, fields: list[str], users: Collection[str], groups: Collection[str]) -> list[str]:
    match fields:
        case [words] if section == "Create time permissions":
            return words.split(",")
        case ["everyone", words]:
            return words.split(",")
        case ["user", name, words] if name in users:
            return words.split(",")
        case ["group", name, words] if name in groups:
            return words.split(",")
        case _:
            return []


def _user() -> list[str]:
    """The names by which this user may be meant, the usual one first."""
    number = os.geteuid()
    try:
        return [pwd.getpwuid(number).pw_name, str(number)]
    except KeyError:
        return [str(number)]


def _groups() -> list[str]:
    names = []
    for number in {os.getegid(), *os.getgroups()}:
        names.append(str(number))
        try:
            names.append(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return names
