"""AYS's third form of list: `path|hash|size|user|group|mode|type|ctime|mtime|extra`.

What its one writer did (JumpScale 8 FList.py), and this reader knows: the two times are in each other's
place; the hash of what is no file is the MD5 of `flist:PATH:MTIME`, which shows that; a mode has three
digits, and so no set-id and sticky bits, where the octal st_mode has five; only empty directories are listed.
An owner without a name is a number.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping

from buildstep.files.lists.ays_lines import (
    EMPTY_SHA256,
    NAMES,
    Losses,
    differs_from_made,
    md5_of,
    rows_of,
    sorted_tree,
    unwritable,
    wrong_size,
)
from buildstep.files.lists.gather import Gathering
from buildstep.files.lists.interface import Named, Reading, ReadList, Writing, Written, by_number, number
from buildstep.system.text import shown_path
from buildstep.tree.entry import Entry, FileList

TYPES = {"s": 0, "l": 1, "f": 2, "b": 3, "d": 4, "c": 5, "p": 6}
_KINDS = {digit: kind for kind, digit in TYPES.items()}

_ROW = re.compile(
    rb"(?P<path>.+?)\|(?P<hash>[0-9a-f]{32})\|(?P<size>[0-9]{1,15})\|(?P<user>[^|]+)\|(?P<group>[^|]+)"
    rb"\|(?P<mode>[0-7]{3,4})\|(?P<type>[0-6])\|(?P<ctime>-?[0-9]{1,12})\|(?P<mtime>-?[0-9]{1,12})"
    rb"\|(?P<extra>.*)",
    re.DOTALL,
)
_DEVICE = re.compile(rb"([0-9]{1,10}),([0-9]{1,10})")

_SECOND = 1_000_000_000


class Ays3Form:
    """All kinds of files with mode, owner and time in seconds: no hard links, no extended attributes."""

    name = "ays3"

    def matches(self, line: bytes) -> bool:
        return _ROW.fullmatch(line.removesuffix(b"\r")) is not None

    def read(self, data: bytes, reading: Reading) -> ReadList:
        return _Reader(reading).read(data)

    def write(self, entries: FileList, writing: Writing) -> Written:
        losses = Losses(self.name, writing)
        users, groups = by_number(writing.owners.users), by_number(writing.owners.groups)
        lines = []
        for entry in sorted_tree(entries):
            if not entry.path:
                # No reader needs it, and one that unpacks to `/` must not change that directory.
                losses.common(entry)
                if entry.mtime or differs_from_made(entry):
                    losses.add("top", "the mode, owner and time of the top directory", entry.path)
                continue
            if why := _unwritable(entry):
                losses.leave_out("name", NAMES, entry.path, why)
                continue
            losses.common(entry)
            if entry.mtime % _SECOND:
                losses.add("time", "entries whose time loses the part below a second", entry.path)
            user, group = users.get(entry.uid, str(entry.uid)), groups.get(entry.gid, str(entry.gid))
            lines.append(_line(entry, (user, group), writing))
        return Written(lines=lines, losses=losses.result())


# -- writing -----------------------------------------------------------------------------------------------


def _unwritable(entry: Entry) -> str | None:
    """Return why an entry cannot be in a list that the old reader takes; None if it can."""
    why = unwritable(b"/" + entry.path)
    if why or entry.kind != "l":
        return why
    why = unwritable(entry.target)
    if why is None and entry.target.decode() != entry.target.decode().rstrip():
        why = "ends in white space, which the old reader takes away"
    return f"its target {why}" if why else None


def _line(entry: Entry, owner: tuple[str, str], writing: Writing) -> bytes:
    path, seconds = b"/" + entry.path, entry.mtime // _SECOND
    md5, size, extra = _hash(path, seconds), 0, b""
    if entry.kind == "f":
        md5, size = md5_of(entry, writing), entry.size
    elif entry.kind == "l":
        size, extra = len(entry.target), entry.target
    elif entry.kind in "cb":
        extra = b"%d,%d" % entry.rdev
    # A tree has one time that means anything: whichever of the two columns a reader takes, it gets that.
    return b"%s|%s|%d|%s|%s|%04o|%d|%d|%d|%s\n" % (
        path, md5.encode(), size, os.fsencode(owner[0]), os.fsencode(owner[1]), entry.mode,
        TYPES[entry.kind], seconds, seconds, extra,
    )  # fmt: skip


def _hash(path: bytes, seconds: int) -> str:
    """Return what stands for the content of what is no file. Source: JumpScale 8 FList.py, `_build`."""
    return hashlib.md5(b"flist:%s:%d" % (path, seconds), usedforsecurity=False).hexdigest()


# -- reading -----------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._found = Gathering(reading)
        self._owners = reading.owners
        self._apart: list[tuple[Entry, int, int, int]] = []
        """Entries whose two times differ, with both and their line."""
        self._votes: set[str] = set()

    def read(self, data: bytes) -> ReadList:
        for line, row in rows_of(data, self._found):
            parts = _ROW.fullmatch(row)
            if parts is None:
                text = "not `path|hash|size|user|group|mode|type|ctime|mtime|extra`"
                self._found.fault(line, f"{text}: {shown_path(row)}")
            else:
                self._add(parts.groupdict(), line)
        self._set_times()
        return self._found.finish()

    def _add(self, parts: Mapping[str, bytes], line: int) -> None:
        kind, size = _KINDS[int(parts["type"])], int(parts["size"])
        md5 = parts["hash"].decode()
        uid = self._owner("user", parts["user"], line)
        gid = self._owner("group", parts["group"], line)
        if kind == "f" and (wrong := wrong_size(md5, size)):
            self._found.fault(line, f"{shown_path(parts['path'])} has {wrong}")
            return
        path = self._found.relative(parts["path"], line)
        entry = Entry(path, kind, int(parts["mode"], 8), uid, gid)
        if len(parts["mode"]) == 3:
            text = "entries whose mode has three digits: their set-id and sticky bits are not known"
            self._found.note("short-mode", text, line, path)
        named = None
        if kind == "f":
            entry.size, entry.sha256 = size, "" if size else EMPTY_SHA256
            named = Named("md5", md5) if size else None
        self._extra(entry, parts["extra"], line)
        self._times(entry, parts, line)
        self._found.add(entry, line, named)

    def _owner(self, what: str, raw: bytes, line: int) -> int:
        """Return the number of an owner; 0 for one that is not known, which is a fault or a note."""
        names = self._owners.users if what == "user" else self._owners.groups
        name = os.fsdecode(raw)
        found = number(name, names)
        if found is None and self._owners.unknown is not None:
            found = self._owners.unknown
            text = f"owners whose name is not known, read as {found}"
            self._found.note("owner", text, line, os.fsencode(f"{what} {name}"))
        elif found is None:
            hint = "give the etc/passwd and etc/group that the names are from, or a number for unknown ones"
            self._found.fault(line, f"no {what} {name!r} is known", hint)
        return found or 0

    def _extra(self, entry: Entry, extra: bytes, line: int) -> None:
        if entry.kind == "l":
            entry.target = extra
            if entry.mode != 0o777:
                text = "links with a mode of their own, which no Linux has"
                self._found.note("link-mode", text, line, entry.path)
                entry.mode = 0o777
        elif entry.kind in "cb":
            device = _DEVICE.fullmatch(extra)
            if device is not None:
                entry.rdev = (int(device[1]), int(device[2]))
            else:
                message = f"{shown_path(entry.path)} is a device with the numbers {os.fsdecode(extra)[:40]!r}"
                self._found.fault(line, message, "the tenth field of a device is `major,minor`")
        elif extra:
            text = "entries with a tenth field that means nothing for their kind"
            self._found.note("extra", text, line, entry.path)

    def _times(self, entry: Entry, parts: Mapping[str, bytes], line: int) -> None:
        first, second = int(parts["ctime"]), int(parts["mtime"])
        # Until it is known better: what sets the mtime sets the ctime as well, to now.
        entry.mtime = min(first, second) * _SECOND
        if first == second:
            return
        self._apart.append((entry, first, second, line))
        if entry.kind != "f":
            named = parts["hash"].decode()
            for column, time in (("ctime", first), ("mtime", second)):
                if _hash(parts["path"], time) == named:
                    self._votes.add(column)

    def _set_times(self) -> None:
        """Take the column that has the mtime, by the hashes of what is no file."""
        for entry, first, second, line in self._apart:
            if self._votes == {"mtime"}:
                entry.mtime = second * _SECOND
            elif self._votes == {"ctime"}:
                text = "entries whose times are in each other's place, as the hashes of the list show"
                self._found.note("times-swapped", text, line, entry.path)
                entry.mtime = first * _SECOND
            else:
                text = "entries with two times, of which nothing tells the mtime: the earlier one was taken"
                self._found.note("times-guessed", text, line, entry.path)
