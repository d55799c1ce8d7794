"""What the two AYS forms share: their lines, what their old readers can take, and the losses in writing.

The old readers are Python: the first reads a whole list as UTF-8, splits it with `str.splitlines`, and each
line at `|` into exactly three (JumpScale 7 ActionsBaseNode.py); the third strips each line and splits it at
`|` (JumpScale 8 FList.py). One name that they cannot take ends the reading of the whole list.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from buildstep.files.lists.gather import Faults, Gathering, Notes
from buildstep.files.lists.interface import Note, Writing
from buildstep.system.text import shown_path
from buildstep.tree.entry import Entry, FileList

EMPTY_MD5 = hashlib.md5(b"", usedforsecurity=False).hexdigest()
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

NAMES = "paths that the form, or its old readers, cannot take"

_MD5 = re.compile(r"[0-9a-f]{32}")


def rows_of(data: bytes, found: Gathering) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a list that are not blank, with their numbers; what is odd about them is noted."""
    rows = data.split(b"\n")
    if rows[-1]:
        text = "no line end after the last line; if the list was cut off, its end is missing"
        found.note("unterminated", text, len(rows))
    else:
        rows.pop()
    for line, row in enumerate(rows, 1):
        if not row.strip():
            found.note("blank", "blank lines", line)
            continue
        if row.endswith(b"\r"):
            found.note("crlf", "lines that end in CR LF", line)
        yield line, row.removesuffix(b"\r")


def wrong_size(md5: str, size: int) -> str | None:
    """Return what is wrong if just one of size and digest is that of an empty file."""
    if (size == 0) == (md5 == EMPTY_MD5):
        return None
    return "no bytes, but not the MD5 of nothing" if size == 0 else f"{size} bytes, but the MD5 of nothing"


def unwritable(text: bytes) -> str | None:
    """Return why a name, or a link's target, cannot be in a list that old readers take; None if it can."""
    if b"|" in text:
        return "holds `|`, which separates the fields"
    try:
        lines = text.decode().splitlines()
    except UnicodeDecodeError:
        return "is not UTF-8"
    return None if len(lines) == 1 and lines[0].encode() == text else "holds what ends a line"


def md5_of(entry: Entry, writing: Writing) -> str:
    """Return the hex MD5 of a file's content."""
    if entry.size == 0:
        return EMPTY_MD5
    assert writing.md5 is not None, "the AYS forms name contents by MD5"
    digest = writing.md5(entry)
    assert _MD5.fullmatch(digest), digest
    return digest


class Losses:
    """What a form cannot say of a tree. A path that is left out makes the list be refused, unless lossy."""

    def __init__(self, form: str, writing: Writing) -> None:
        self._lossy = writing.lossy
        self._notes = Notes()
        self._faults = Faults(f"the tree as a list of the form {form}")

    def leave_out(self, kind: str, text: str, path: bytes, why: str) -> None:
        """Count a path that cannot be in the list. text: the kind in words; why: this path."""
        self._notes.add(kind, text, path, why=why)
        self._faults.add(shown_path(path), why, "have it left out, or write another form")

    def add(self, kind: str, text: str, path: bytes) -> None:
        """Count a path of which the list does not say all."""
        self._notes.add(kind, text, path)

    def common(self, entry: Entry) -> None:
        """Count what neither form can say of an entry that is in the list, or that a reader makes."""
        if entry.xattrs:
            self.add("xattrs", "entries whose extended attributes are lost", entry.path)
        if entry.first:
            self.add("hard-link", "hard links that become files of their own", entry.path)

    def result(self) -> tuple[Note, ...]:
        """Return the losses. Raises SpecError with every path that is left out, unless that is wanted."""
        if not self._lossy:
            self._faults.check()
        return self._notes.result()


def parents_of(path: bytes, known: set[bytes]) -> set[bytes]:
    """Return the directories above a path that are not known: readers make them by themselves."""
    found = set()
    while (path := path.rpartition(b"/")[0]) not in known:
        found.add(path)
    return found


def differs_from_made(entry: Entry) -> bool:
    """Tell whether a directory has another mode or owner than one that a reader makes."""
    return (entry.mode, entry.uid, entry.gid) != (0o755, 0, 0)


def sorted_tree(entries: FileList) -> Iterator[Entry]:
    """Yield the entries in the order of their paths."""
    return (entries[path] for path in sorted(entries))
