"""Who a command in an image runs as: an account of the image's own tables, by a program of the image."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from buildstep.errors import BuildstepError, SandboxError
from buildstep.system.accounts import number_of
from buildstep.system.root import Root


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """An account: its numbers, further groups, name and home directory."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    name: str = "root"
    home: str = "/root"

    @property
    def env(self) -> dict[str, str]:
        """The variables that a login of this account has."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}

    def argv(self, root: Root, argv: Sequence[str]) -> tuple[str, ...]:
        """Return the command line, run by root in the image, that runs a command as this account.

        Raises SandboxError where the image has no program for that.
        """
        if self == ROOT:
            return tuple(argv)
        groups = ",".join(map(str, self.groups))
        if program := _util_linux(root):
            more = ["--groups", groups] if groups else ["--clear-groups"]
            numbers = ["--reuid", str(self.uid), "--regid", str(self.gid)]
            return (program, *numbers, *more, "--", *argv)
        if program := _coreutils(root):
            return (program, f"--userspec={self.uid}:{self.gid}", f"--groups={groups}", "/", *argv)
        if program := next((path for path in ("/bin/su", "/usr/bin/su") if root.is_program(path)), ""):
            return (program, "-s", "/bin/sh", self.name, "-c", f"exec {shlex.join(argv)}")
        raise SandboxError(
            f"a command cannot run as {self.name}: the image has none of setpriv, chroot and su",
            hint="install util-linux in it, or run the command as root",
        )


ROOT = Account()


def account(root: Root, user: str | None) -> Account:
    """Return the account of USER or USER:GROUP, names or numbers; None for root. Raises SandboxError."""
    if user is None or user in ("root", "0"):
        return ROOT
    name, _, group = user.partition(":")
    row = _row(root, name)
    uid = int(row[2]) if row else number_of("user", name, root)
    gid = number_of("group", group, root) if group else int(row[3]) if row else uid
    for what, asked, found in (("user", name, uid), ("group", group or name, gid)):
        if found is None:
            raise SandboxError(
                f"the image has no {what} {asked}", hint="build.users and build.groups make accounts"
            )
    assert uid is not None
    assert gid is not None
    if uid == 0 and gid == 0:
        return ROOT
    name = row[0] if row else name
    groups = () if group else _groups(root, name, gid)
    return Account(uid=uid, gid=gid, groups=groups, name=name, home=row[5] if row and row[5] else "/")


def _row(root: Root, user: str) -> list[str] | None:
    """Return the fields of an account in /etc/passwd, by its name, else by its number."""
    rows = [line.split(":") for line in _lines(root, "/etc/passwd")]
    rows = [row for row in rows if len(row) == 7 and row[2].isdigit() and row[3].isdigit()]
    by_name = (row for row in rows if row[0] == user)
    return next(by_name, next((row for row in rows if row[2] == user), None))


def _groups(root: Root, name: str, gid: int) -> tuple[int, ...]:
    rows = [line.split(":") for line in _lines(root, "/etc/group")]
    found = {int(row[2]) for row in rows if len(row) == 4 and row[2].isdigit() and name in row[3].split(",")}
    return tuple(sorted({gid, *found}))


def _lines(root: Root, path: str) -> list[str]:
    try:
        return os.fsdecode(root.read(path)).splitlines()
    except (OSError, BuildstepError):
        return []


def _util_linux(root: Root) -> str:
    """Return setpriv, if it is util-linux' own: busybox has one of that name with fewer options."""
    return _own(root, ("/usr/bin/setpriv", "/bin/setpriv"))


def _coreutils(root: Root) -> str:
    return _own(root, ("/usr/sbin/chroot", "/usr/bin/chroot", "/sbin/chroot", "/bin/chroot"))


def _own(root: Root, paths: Sequence[str]) -> str:
    for path in paths:
        real = root.real(path)
        if real and root.is_program(path) and "busybox" not in real:
            return path
    return ""
