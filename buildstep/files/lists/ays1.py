"""AYS's first form of list, `path|md5|size`: all else is assumed when it is read, and lost when written."""

from __future__ import annotations

import os
import re

from buildstep.files.lists.ays_lines import (
    EMPTY_MD5,
    EMPTY_SHA256,
    NAMES,
    Losses,
    differs_from_made,
    md5_of,
    parents_of,
    rows_of,
    sorted_tree,
    unwritable,
    wrong_size,
)
from buildstep.files.lists.gather import Gathering
from buildstep.files.lists.interface import Named, Reading, ReadList, Writing, Written
from buildstep.system.text import shown_path
from buildstep.tree.entry import Entry, FileList

_ROW = re.compile(rb"(.+)\|([0-9a-f]{32})\|([0-9]{1,15})", re.DOTALL)

_OTHER = "devices, pipes and sockets, which the form does not have"
_LEFT_OUT = {
    "l": ("link", "symbolic links, which the form does not have", "a symbolic link"),
    "c": ("device", _OTHER, "a character device"),
    "b": ("device", _OTHER, "a block device"),
    "p": ("device", _OTHER, "a pipe"),
    "s": ("device", _OTHER, "a socket"),
    "d": ("directory", "directories in which no file is listed", "a directory in which no file is listed"),
}
"""For what the list has no line for: kind and text of the loss, and what a path is called."""


class Ays1Form:
    """Files by path, MD5 and size: no links, devices and empty directories, no modes, owners and times."""

    name = "ays1"

    def matches(self, line: bytes) -> bool:
        return _ROW.fullmatch(line.removesuffix(b"\r")) is not None

    def read(self, data: bytes, reading: Reading) -> ReadList:
        found = Gathering(reading)
        for line, row in rows_of(data, found):
            parts = _ROW.fullmatch(row)
            if parts is None:
                found.fault(line, f"not `path|md5|size`: {shown_path(row)}")
                continue
            md5, size = os.fsdecode(parts[2]), int(parts[3])
            if wrong := wrong_size(md5, size):
                found.fault(line, f"{shown_path(parts[1])} has {wrong}")
                continue
            empty = md5 == EMPTY_MD5
            path = found.relative(parts[1], line)
            entry = Entry(path, "f", reading.file_mode, 0, 0, size, EMPTY_SHA256 if empty else "")
            found.add(entry, line, None if empty else Named("md5", md5))
        _note_what_is_not_said(found, reading)
        return found.finish()

    def write(self, entries: FileList, writing: Writing) -> Written:
        losses = Losses(self.name, writing)
        lines: dict[bytes, bytes] = {}
        implied = {b""}
        for entry in sorted_tree(entries):
            path = entry.path
            if entry.kind == "f" and (why := unwritable(b"/" + path)):
                losses.leave_out("name", NAMES, path, why)
            elif entry.kind == "f":
                lines[path] = b"/%s|%s|%d\n" % (path, md5_of(entry, writing).encode(), entry.size)
                implied |= parents_of(path, implied)
        for entry in sorted_tree(entries):
            if entry.path in lines or entry.path in implied:
                losses.common(entry)
                if differs_from_made(entry):
                    losses.add(
                        "mode-owner", "entries with another mode or owner than 0755 and 0:0", entry.path
                    )
                if entry.mtime:
                    losses.add("time", "entries whose time is lost", entry.path)
            elif entry.kind != "f":
                kind, text, why = _LEFT_OUT[entry.kind]
                losses.leave_out(kind, text, entry.path, why)
        return Written(lines=sorted(lines.values()), losses=losses.result())


def _note_what_is_not_said(found: Gathering, reading: Reading) -> None:
    assumed = f"files without mode, owner and time: {reading.file_mode:04o}, 0:0 and 1970-01-01 are assumed"
    same = "files with the content of another; the form has no links, so they may have been links"
    contents = set()
    for path, line in found.lines.items():
        found.note("assumed", assumed, line, path)
        named = found.named.get(path)
        if named in contents:
            found.note("same-content", same, line, path)
        elif named is not None:
            contents.add(named)
