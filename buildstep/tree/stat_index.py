"""The stat index of a proto directory: thanks to it, an unchanged file costs one lstat and no read.

The index keeps, for each path, all that lstat said (see `stat_lines`) when its content was last read. While
lstat says the same, inode and ctime with it, content, links and attributes are the same too: any change of
them moves the ctime, which nobody can set. An entry whose ctime is not clearly older than the start of the
walk is not trusted: it could change again within the same tick of the clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from buildstep.system import framed
from buildstep.system.files import atomic_write
from buildstep.system.locks import lock
from buildstep.system.private import private_dir
from buildstep.tree import stat_lines
from buildstep.tree.entry import Entry, Xattrs
from buildstep.tree.stat_lines import Seen

FORMAT = 5

GRAIN_NS = 20_000_000
"""No kernel clock that stamps files is coarser than this."""

Row = tuple[Any, ...]
"""A `KnownEntry` as marshal reads it. An index has one for each path, and naming the fields of all would
slow every build: `known_entry` names those of the few that are looked at."""


class KnownEntry(NamedTuple):
    """What an index has of a path. line: what lstat said, see `stat_lines`; linked: it has other names; kept:
    the time (ns) that it has in images of which content decides the times; blob: the name of the blob of git
    that its content is, empty where that is not known."""

    line: bytes
    linked: bool
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    sha256: str
    target: bytes
    rdev: tuple[int, int]
    xattrs: Xattrs
    kept: int
    blob: bytes

    def before(self) -> tuple[Seen, bool]:
        """Return what lstat said, and whether that was to be trusted."""
        young = self.line.startswith(UNTRUSTED)
        return stat_lines.parse(self.line[1:] if young else self.line), not young


known_entry: Callable[[Row], KnownEntry] = KnownEntry._make
line_of: Callable[[Row], bytes] = itemgetter(0)
is_linked: Callable[[Row], bool] = itemgetter(1)
kind_and_size: Callable[[Row], tuple[str, int]] = itemgetter(2, 6)
"""The fields that are needed of every path."""

UNTRUSTED = b"?"
"""Before the line of an entry that was too young. No real line begins so: such an entry is never valid."""


def seen_line(row: Row) -> bytes:
    """Return what lstat said of a path, whether or not that is to be trusted later."""
    return line_of(row).removeprefix(UNTRUSTED)


def inode_of(row: Row) -> int:
    """Return the inode that a path had."""
    return int(seen_line(row).partition(b" ")[0])


def row_of(entry: Entry, seen: Seen, *, started: int, blob: bytes = b"") -> Row:
    """Return what an index keeps of a path that was read. started: when the walk began, in ns."""
    line = seen.line
    if seen.ctime >= started - GRAIN_NS or (entry.kind == "f" and not entry.sha256):
        line = UNTRUSTED + line
    return (
        line, seen.linked, entry.kind, seen.mode, seen.uid, seen.gid, seen.size, seen.mtime,
        entry.sha256, entry.target, entry.rdev, entry.xattrs, seen.mtime, blob,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """What an index holds. notes: what a build wrote beside it; started: when the walk began that it is of,
    in ns; excludes: the patterns of that walk; end: bytes of its complete records; first_end: bytes of those
    that were written at once, before changes were added; stamp: the file itself, see `StatIndex.stamp`."""

    paths: Mapping[bytes, Row] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    started: int = 0
    excludes: tuple[str, ...] = ()
    end: int = 0
    first_end: int = 0
    stamp: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all of the file could be read. What was lost of a damaged one has to be written again."""
        return bool(self.stamp) and self.stamp[0] == self.end


@dataclass(frozen=True, kw_only=True, slots=True)
class Walked:
    """What a walk found that an index is to keep.

    known: the index that it was compared with, None if that was not trusted; valid: what holds of it still;
    same: of that, what has other inodes or times now; gone: its paths that are not there any more; fresh:
    the rest, `fresh_count` rows; started: when the walk began, in ns; excludes: its patterns; notes: what to
    write beside them.
    """

    known: Known | None
    valid: Mapping[bytes, Row]
    same: Mapping[bytes, Row]
    gone: Collection[bytes]
    fresh: Iterator[tuple[bytes, Row]]
    fresh_count: int
    started: int
    excludes: tuple[str, ...]
    notes: Mapping[str, Any]


def last_checkout(state: Path, component: str) -> Path | None:
    """Return the directory that the component's last image was made from; None where that is not known."""
    try:
        data = _pointer(state, component).read_bytes()
    except OSError:
        return None
    return next(
        (Path(os.fsdecode(name)) for (version, name), _ in framed.read(data) if version == FORMAT), None
    )


def note_checkout(state: Path, component: str, proto: Path) -> None:
    """Note that the component's last image was made from this directory. Raises OSError."""
    path, place = _pointer(state, component), Path(os.path.realpath(proto))
    if last_checkout(state, component) == place:
        with contextlib.suppress(OSError):
            os.utime(path)
        return
    private_dir(path.parent)
    with atomic_write(path, durable=False) as stream:
        framed.write(stream, (FORMAT, os.fsencode(place)))


def _pointer(state: Path, component: str) -> Path:
    name = hashlib.sha256(b"last " + component.encode(errors="surrogateescape")).hexdigest()[:32]
    return state / "index" / f"{name}.idx"


class StatIndex:
    """The index of one proto directory, in a pool's state."""

    def __init__(self, state: Path, proto: Path, component: str = "") -> None:
        """component: for whose images the directory is read: what those have of it is kept as well."""
        place = os.fsencode(os.path.realpath(proto))
        place += b"\0" + component.encode(errors="surrogateescape") if component else b""
        name = hashlib.sha256(place).hexdigest()[:32]
        self.path = state / "index" / f"{name}.idx"

    def forget(self) -> None:
        """Remove it: the directory is gone for good."""
        for path in (self.path, self.path.with_suffix(".lock")):
            path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes of the file; 0 where there is none."""
        return self.stamp[0] if self.stamp else 0

    @property
    def stamp(self) -> tuple[int, ...]:
        """What changes when somebody writes the file; its size first. Empty where there is none."""
        try:
            info = self.path.stat()
        except OSError:
            return ()
        return info.st_size, info.st_ino, info.st_mtime_ns

    def load(self) -> Known:
        """Return what is known of each path; nothing when there is no index, or none that can be read."""
        paths: dict[bytes, Row] = {}
        notes: dict[str, Any] = {}
        excludes: tuple[str, ...] = ()
        started = end = first_end = 0
        stamp = self.stamp
        try:
            data = self.path.read_bytes()
        except OSError:
            return Known()
        for (version, *record), end in framed.read(data):
            if version != FORMAT:
                return Known()
            first, found, notes, began, excludes = record
            if first:
                paths.update(found)
                first_end = end
            else:
                for path, value in found.items():
                    if value is None:
                        paths.pop(path, None)
                    else:
                        paths[path] = value
            started = max(started, began)
        return Known(paths, notes, started, tuple(excludes), end, first_end, stamp)

    def save(self, walked: Walked) -> None:
        """Write down what was read, and the notes beside it.

        A few changes are added to the file's end; many, or the first time, write it anew.
        """
        tail = (walked.started, walked.excludes)
        private_dir(self.path.parent)
        with lock(self.path.with_suffix(".lock")):
            count = walked.fresh_count + len(walked.gone) + len(walked.same)
            few = count < len(walked.valid) // 10
            if walked.known is not None and few and self._can_be_added_to(walked.known):
                changes = {**walked.same, **dict(walked.fresh), **dict.fromkeys(walked.gone)}
                with self.path.open("ab") as stream:
                    framed.write(stream, (FORMAT, False, changes, dict(walked.notes), *tail))
                return
            with atomic_write(self.path, durable=False) as stream:
                # In pieces, which need less memory; the notes are of all of them.
                rest = itertools.chain(walked.valid.items(), walked.fresh)
                while piece := dict(itertools.islice(rest, _PIECE)):
                    framed.write(stream, (FORMAT, True, piece, {}, *tail))
                framed.write(stream, (FORMAT, True, {}, dict(walked.notes), *tail))

    def touch(self) -> None:
        """Note that the index was of use: what is not for long is pruned."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def _can_be_added_to(self, known: Known) -> bool:
        """Whether this is still the file that the walk was compared with, complete, and of few pieces."""
        same = self.stamp == known.stamp and self.size == known.end
        return bool(known.paths) and same and known.end < 2 * known.first_end


_PIECE = 10_000
"""Paths in a record."""
