"""What every reader of lists does: check entries and paths, merge what is said twice, add directories."""

from __future__ import annotations

import re
from collections.abc import Iterator

from buildstep.errors import Fault, SpecError
from buildstep.files.lists.interface import NOBODYS, TOLD, Named, Note, Reading, ReadList
from buildstep.system.text import shown_path
from buildstep.tree.entry import LARGEST, LONGEST, TYPE_BITS, Entry, FileList

NAME_LENGTH = 255
"""Bytes that one name may have on every file system that an image is checked out to (NAME_MAX)."""

MADE_LIMIT = 64 << 20
"""Bytes of the paths of directories that a list may leave to be made. One line of a hostile list can name
thousands of them; honest lists have a few hundred."""

_ODD = re.compile(rb"\0|/(?:\.\.?)?/")
_SLASHES = re.compile(rb"/{2,}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Notes:
    """Counts what is odd or lost by kind, with the first example of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, tuple[str, bytes | None, int, str]] = {}

    def add(self, kind: str, text: str, path: bytes | None = None, *, line: int = 0, why: str = "") -> None:
        """Count one more of a kind.

        text: what it means, the same for all of a kind. path, line: where; why: for a path that is left out.
        """
        count = self._counts.get(kind, 0)
        self._counts[kind] = count + 1
        if not count:
            self._first[kind] = (text, path, line, why)

    def result(self) -> tuple[Note, ...]:
        """Return a note for each kind, in the order in which they were first met."""
        found = []
        for kind, (text, path, line, why) in self._first.items():
            where = "" if path is None else shown_path(path)
            if line:
                where = f"line {line} ({where})" if where else f"line {line}"
            example = f"{where}: {why}" if why else where
            found.append(
                Note(kind=kind, text=text, count=self._counts[kind], example=example, left_out=bool(why))
            )
        return tuple(found)


class Faults:
    """Collects faults; of many it keeps the first, so that a file that is no list gives a short error."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._found: list[tuple[int, Fault]] = []
        self._more = 0

    def add(self, where: str, message: str, hint: str = "", *, line: int = 0) -> None:
        """Keep one. line: faults are told in the order of these."""
        if len(self._found) < TOLD:
            self._found.append((line, Fault(where=where, message=message, hint=hint)))
        else:
            self._more += 1

    def check(self) -> None:
        """Raise SpecError if there are any."""
        if self._found:
            found = [fault for _, fault in sorted(self._found, key=lambda item: item[0])]
            more = [Fault(where="and", message=f"{self._more:,} more faults")] if self._more else []
            raise SpecError(self._source, [*found, *more])


def _is_plain(entry: Entry) -> bool:
    """Tell whether `faults_of` has nothing to say, for the kind of entry that nearly all are."""
    return (
        entry.kind == "f"
        and not entry.uid
        and not entry.gid
        and 0 <= entry.mode <= 0o7777
        and 0 <= entry.size <= LARGEST
        and 0 < len(entry.path) <= NAME_LENGTH
        and not entry.sha256
        and not entry.xattrs
        and not _ODD.search(b"/%s/" % entry.path)
    )


def faults_of(entry: Entry) -> Iterator[str]:
    """Yield what is wrong with one entry in itself: values that nothing on a disk can have."""
    path = entry.path
    if path and (_ODD.search(b"/%s/" % path) or any(len(name) > NAME_LENGTH for name in path.split(b"/"))):
        yield f"the path {shown_path(path)!r} {_path_fault(path)}"
    if len(path) > LONGEST:
        yield f"a path of {len(path)} bytes, and an image can have {LONGEST}: {shown_path(path)}"
    if entry.kind not in TYPE_BITS:
        yield f"{shown_path(path)} is of a kind {entry.kind!r}, which is none"
    if not path and entry.kind != "d":
        yield "the top is not a directory"
    if not 0 <= entry.mode <= 0o7777:
        yield f"{shown_path(path)} has mode {entry.mode:o}, which is none"
    if not (0 <= entry.uid < NOBODYS and 0 <= entry.gid < NOBODYS):
        yield f"{shown_path(path)} has the owner {entry.uid}:{entry.gid}, which no file can have"
    if not 0 <= entry.size <= LARGEST:
        yield f"{shown_path(path)} has {entry.size} bytes, and a file can have {LARGEST}"
    if entry.sha256 and not _SHA256.fullmatch(entry.sha256):
        yield f"{shown_path(path)} has the digest {entry.sha256!r}, which is no SHA-256"
    if entry.kind == "l" and (not entry.target or b"\0" in entry.target or len(entry.target) > 4095):
        yield f"{shown_path(path)} is a link to nothing that a link can lead to"
    if entry.kind in "cb" and not all(0 <= value < 1 << 32 for value in entry.rdev):
        yield f"{shown_path(path)} has the device number {entry.rdev}, which is none"
    if any(not name or b"\0" in name or len(name) > NAME_LENGTH for name, _ in entry.xattrs):
        yield f"{shown_path(path)} has an extended attribute of a name that none can have"


def _path_fault(path: bytes) -> str:
    parts = path.split(b"/")
    if b"\0" in path:
        return "holds a NUL"
    if b".." in parts:
        return "leads out of where it is, by `..`"
    if b"." in parts:
        return "holds the name `.`"
    if not all(parts):
        return "begins or ends with a slash, or has an empty name in it"
    return f"has a name of more than {NAME_LENGTH} bytes"


class Gathering:
    """The entries of one list while it is read, how it names their contents, and on which line they are.

    Lines count from 1.
    """

    def __init__(self, reading: Reading) -> None:
        self.notes = Notes()
        self.faults = Faults(reading.source)
        self._last_counts = reading.conflicts == "last"
        self.entries: FileList = {}
        self.named: dict[bytes, Named] = {}
        self.lines: dict[bytes, int] = {}
        self._sizes: dict[Named, tuple[int, int]] = {}

    def fault(self, line: int, message: str, hint: str = "") -> None:
        self.faults.add(f"line {line}", message, hint, line=line)

    def note(self, kind: str, text: str, line: int, path: bytes | None = None) -> None:
        self.notes.add(kind, text, path, line=line)

    def relative(self, path: bytes, line: int) -> bytes:
        """Return the path in a tree of a list's absolute one; what is odd about it is noted."""
        if path[:1] != b"/":
            self.note("relative", "paths without a leading slash, read as if they had one", line, path)
        if b"//" in path:
            self.note("double-slash", "paths with `//`, read as `/`", line, path)
            path = _SLASHES.sub(b"/", path)
        return path.removeprefix(b"/")

    def add(self, entry: Entry, line: int, named: Named | None = None) -> None:
        """Take the entry of a line. named: how the list names its content, if not by SHA-256."""
        if not _is_plain(entry):
            wrong = list(faults_of(entry))
            for message in wrong:
                self.fault(line, message)
            if wrong:
                return
        if named is not None:
            size, first = self._sizes.setdefault(named, (entry.size, line))
            if size != entry.size:
                message = f"{named} has {entry.size} bytes here and {size} on line {first}"
                self.fault(line, message, "one content has one size")
                return
        path = entry.path
        old = self.entries.get(path)
        if old is not None:
            if (old, self.named.get(path)) == (entry, named):
                self.note("repeated", "lines that say again what an earlier line says", line, path)
                return
            first = self.lines[path]
            if not self._last_counts:
                message = f"{shown_path(path)} is not what line {first} says of it"
                self.fault(line, message, "say that the last line counts, or remove one of them")
                return
            text = "paths of which lines say different things; the last line counts"
            self.note("overridden", text, line, path)
            self.named.pop(path, None)
        self.entries[path] = entry
        self.lines[path] = line
        if named is not None:
            self.named[path] = named

    def finish(self) -> ReadList:
        """Return all of it, sorted, with the directories that the list does not name. Raises SpecError."""
        self._add_parents()
        self._check_groups()
        self.faults.check()
        entries = {path: self.entries[path] for path in sorted(self.entries)}
        named = {path: self.named[path] for path in entries if path in self.named}
        return ReadList(entries=entries, digests=named, notes=self.notes.result())

    def _add_parents(self) -> None:
        made = 0
        for path in list(self.entries):
            below = path
            while below:
                below = below.rpartition(b"/")[0]
                parent = self.entries.get(below)
                if parent is None and made <= MADE_LIMIT:
                    self._make(below)
                    made += len(below)
                    continue
                if parent is not None and parent.kind != "d":
                    message = f"{shown_path(path)} is below {shown_path(below)}, which is no directory"
                    self.fault(self.lines[path], f"{message} by line {self.lines[below]}")
                break
        if b"" not in self.entries:
            self._make(b"")
        if made > MADE_LIMIT:
            text = f"the directories that are not listed have paths of over {MADE_LIMIT >> 20} MiB"
            self.faults.add("all lines", text, "no honest list is like that")

    def _make(self, path: bytes) -> None:
        text = "directories that the list does not name, made with mode 0755 and owner 0:0"
        self.notes.add("parents", text, path)
        self.entries[path] = Entry(path, "d", 0o755, 0, 0)

    def _check_groups(self) -> None:
        for path, entry in self.entries.items():
            if not entry.first:
                continue
            leader = self.entries.get(entry.first)
            if entry.kind == "d" or leader is None or leader.first or leader.kind != entry.kind:
                message = f"{shown_path(path)} is a hard link of {shown_path(entry.first)}"
                self.fault(self.lines[path], f"{message}, which is no first path of a group of its kind")
