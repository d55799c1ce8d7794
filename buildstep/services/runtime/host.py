"""Accounts of the system: made once, with the numbers that were asked for."""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Mapping
from typing import Any

from buildstep.services.runtime import commands
from buildstep.services.runtime.answers import Failure

_NAME = re.compile(r"[a-z_][a-z0-9_-]*\$?")
_KNOWN = frozenset({"name", "uid", "gid", "group", "groups", "home", "shell"})
_NO_SHELL = "/usr/sbin/nologin"


def ensure_user(wanted: Mapping[str, Any]) -> bool:
    """Have an account as wanted; return whether it was made. One that is there costs no process.

    wanted: `name`; `uid`, `gid` (numbers), `group` (the name of its own group: the same as its own), `groups`
    (more of them, each of which must be there), `home`, `shell` (none to log in with). Raises Failure.
    """
    name = str(wanted.get("name", ""))
    unknown = sorted(set(wanted) - _KNOWN)
    if unknown or not _NAME.fullmatch(name):
        raise Failure(
            f"a user {name!r} with {', '.join(unknown)}" if unknown else f"{name!r} is no user's name"
        )
    group = str(wanted.get("group") or name)
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        _ensure_group(group, wanted.get("gid"))
        _make(name, group, wanted)
        return True
    for field, found in (("uid", account.pw_uid), ("gid", account.pw_gid)):
        if wanted.get(field) is not None and int(wanted[field]) != found:
            raise Failure(f"the user {name} is there with {field} {found}, not {wanted[field]}")
    missing = [one for one in _groups(wanted) if name not in _members(one) and account.pw_gid != _gid(one)]
    for one in missing:
        _run(["usermod", "-a", "-G", one, name], ["addgroup", name, one])
    return False


def _groups(wanted: Mapping[str, Any]) -> list[str]:
    groups = wanted.get("groups") or []
    return [groups] if isinstance(groups, str) else [str(one) for one in groups]


def _members(group: str) -> list[str]:
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        raise Failure(f"there is no group {group}") from None


def _gid(group: str) -> int:
    return grp.getgrnam(group).gr_gid


def _ensure_group(name: str, number: Any) -> None:
    try:
        found = grp.getgrnam(name).gr_gid
    except KeyError:
        wanted = [] if number is None else ["-g", str(int(number))]
        _run(["groupadd", "--system", *wanted, name], ["addgroup", "-S", *wanted, name])
        return
    if number is not None and int(number) != found:
        raise Failure(f"the group {name} is there with gid {found}, not {number}")


def _make(name: str, group: str, wanted: Mapping[str, Any]) -> None:
    uid = [] if wanted.get("uid") is None else ["-u", str(int(wanted["uid"]))]
    home = str(wanted.get("home") or "/nonexistent")
    shell = str(wanted.get("shell") or (_NO_SHELL if os.path.exists(_NO_SHELL) else "/bin/false"))
    groups = _groups(wanted)
    for one in groups:
        _members(one)
    more = ["-G", ",".join(groups)] if groups else []
    _run(
        ["useradd", "--system", "--no-create-home", *uid, "-g", group, *more, "-d", home, "-s", shell, name],
        ["adduser", "-S", "-D", "-H", *uid, "-G", group, "-h", home, "-s", shell, name],
    )
    for one in groups if commands.find("useradd") is None else []:
        _run(["addgroup", name, one])


def _run(*choices: list[str]) -> None:
    """Run the first of some commands whose program is there: shadow's, else busybox's."""
    for argv in choices:
        if commands.find(argv[0]):
            result = commands.run(argv, commands.Options(env={}))
            if result.status:
                raise Failure(f"{' '.join(argv)}: it {result.ended}")
            return
    raise Failure(f"there is no program to do this: {', '.join(argv[0] for argv in choices)}")
