"""The tables of users and groups in an image, as text: passwd(5), shadow(5), group(5), gshadow(5).

Rows keep their places, and what is no row stays as it is. A new row goes to the end, before those of NIS that
begin with a plus or a minus sign, as useradd(8) puts it there.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from buildstep.errors import BuildstepError, SandboxError
from buildstep.system.accounts import Readable, numbers
from buildstep.system.root import Root

PATHS: Final = {
    "passwd": "/etc/passwd",
    "group": "/etc/group",
    "shadow": "/etc/shadow",
    "gshadow": "/etc/gshadow",
}

_WIDTHS: Final = {"passwd": 7, "group": 4, "shadow": 9, "gshadow": 4}


@dataclass(slots=True)
class Table:
    """One table. there: whether the image has it; lines: without line ends."""

    name: str
    there: bool
    lines: list[str]
    changed: bool = False

    @classmethod
    def read(cls, name: str, root: Readable) -> Table:
        """Read a table; one that cannot be read is not there."""
        try:
            text = os.fsdecode(root.read(PATHS[name]))
        except (OSError, BuildstepError):
            return cls(name, False, [])
        lines = text.split("\n")
        return cls(name, True, lines[:-1] if lines[-1] == "" else lines)

    def find(self, name: str) -> list[str] | None:
        """Return the fields of a row, filled up; None without one. Of two of that name the first counts."""
        for line in self.lines:
            if line.startswith(f"{name}:"):
                fields = line.split(":")
                return fields + [""] * (_WIDTHS[self.name] - len(fields))
        return None

    @property
    def names(self) -> list[str]:
        """The names of all rows."""
        return [line.partition(":")[0] for line in self.lines]

    def put(self, fields: Sequence[str]) -> None:
        """Put a row in place of that of its name, or after the others."""
        row = ":".join(fields)
        for number, line in enumerate(self.lines):
            if line.startswith(f"{fields[0]}:"):
                self.changed |= line != row
                self.lines[number] = row
                return
        end = next((n for n, line in enumerate(self.lines) if line[:1] in ("+", "-")), len(self.lines))
        self.lines.insert(end, row)
        self.changed = True

    def join(self, group: str, user: str, column: int = 3) -> None:
        """Add a user to a column of names of a group, if its row is there."""
        fields = self.find(group)
        if fields is None:
            return
        names = [name for name in fields[column].split(",") if name]
        if user not in names:
            fields[column] = ",".join([*names, user])
            self.put(fields)

    @property
    def text(self) -> bytes:
        """The whole table."""
        return os.fsencode("".join(f"{line}\n" for line in self.lines))


@dataclass(slots=True)
class Tables:
    """All tables of an image."""

    passwd: Table
    group: Table
    shadow: Table
    gshadow: Table
    by_uid: dict[int, str] = field(default_factory=dict)
    by_gid: dict[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Readable) -> Tables:
        """Read what an image has."""
        passwd, group, shadow, gshadow = (Table.read(name, root) for name in PATHS)
        tables = cls(passwd=passwd, group=group, shadow=shadow, gshadow=gshadow)
        for found, table in ((tables.by_uid, tables.passwd), (tables.by_gid, tables.group)):
            for name, number in numbers(table.text).items():
                found.setdefault(number, name)
        return tables

    def number(self, table: Table, name: str) -> int | None:
        """Return the number of a user or group; None without one."""
        fields = table.find(name)
        return int(fields[2]) if fields is not None and fields[2].isdecimal() else None

    def write(self, root: Root, *, owners: bool) -> list[str]:
        """Write the tables that changed, and return their paths. owners: whether those can be set."""
        changed = [table for table in (self.group, self.gshadow, self.passwd, self.shadow) if table.changed]
        for table in changed:
            _replace(root, PATHS[table.name], table.text, owners=owners)
        return [PATHS[table.name] for table in changed]


def _replace(root: Root, path: str, data: bytes, *, owners: bool) -> None:
    """Replace a table, which keeps its mode, owner and attributes; one that was a link stays one."""
    real = root.real(path) or path
    old = root.lstat(real)
    if old is None or stat.S_ISLNK(old.st_mode):  # a link to nothing is replaced
        root.make_dirs("/etc")
        root.write(real, data)
        return
    if not stat.S_ISREG(old.st_mode):
        raise SandboxError(f"{path} in the image is not a regular file", hint="the base image is at fault")
    with root.parent(real) as (fd, name):
        place = f"/proc/self/fd/{fd}/{name}"
        attributes: dict[str, bytes] = {}
        with contextlib.suppress(OSError, AttributeError):  # none here, or a system without /proc
            attributes = {key: os.getxattr(place, key) for key in os.listxattr(place)}
    root.write(real, data, mode=old.st_mode & 0o7777)
    with root.parent(real) as (fd, name):
        if owners:
            os.chown(name, old.st_uid, old.st_gid, dir_fd=fd, follow_symlinks=False)
            os.chmod(name, old.st_mode & 0o7777, dir_fd=fd)
        for key, value in attributes.items():
            with contextlib.suppress(OSError):
                os.setxattr(f"/proc/self/fd/{fd}/{name}", key, value)


def lost(name: str, before: bytes, after: bytes) -> list[str]:
    """Return what one table drops of another, in words: rows, numbers that change, members of groups."""
    old, new = _rows(before), _rows(after)
    found = [row for row in old if row not in new]
    if name in ("passwd", "group"):
        ours, theirs = numbers(before), numbers(after)
        found += [
            f"{row} (its number {number} becomes {theirs[row]})"
            for row, number in ours.items()
            if theirs.get(row, number) != number
        ]
    if name == "group":
        for row in old.keys() & new.keys():
            gone = _members(old[row]) - _members(new[row])
            found += [f"{member} in {row}" for member in sorted(gone)]
    return found


def _rows(text: bytes) -> dict[str, list[str]]:
    """Return the fields of each row by its name; comments and rows of NIS are left out."""
    found: dict[str, list[str]] = {}
    for line in os.fsdecode(text).splitlines():
        fields = line.split(":")
        if len(fields) > 1 and fields[0] and fields[0][0] not in "+-#":
            found.setdefault(fields[0], fields)
    return found


def _members(fields: Sequence[str]) -> set[str]:
    return {name for name in ",".join(fields[3:4]).split(",") if name}


Definitions = Mapping[str, str]


def definitions(root: Readable, path: str) -> Definitions:
    """Return the settings of a file such as /etc/login.defs (login.defs(5)) or /etc/default/useradd."""
    try:
        text = os.fsdecode(root.read(path))
    except (OSError, BuildstepError):
        return {}
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].replace("=", " ", 1).split(None, 1)
        if len(words) == 2:
            found[words[0]] = words[1].strip().strip('"')
    return found
