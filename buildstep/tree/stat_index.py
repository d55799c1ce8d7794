"""What a proto directory holds, read once: a stat index makes an unchanged file cost one lstat.

The index of a proto directory keeps, for each path, all that lstat said (see `statlines`) when its content
was last read. While that is the same, inode and ctime with it, so are content, links and attributes: any
change of them moves the ctime, which nobody can set. An entry whose ctime is not clearly older than the
moment the index was begun is not trusted: it could change again within the same tick of the clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.system import framed
from buildstep.system.files import atomic_write
from buildstep.system.locks import lock
from buildstep.tree import stat_lines
from buildstep.tree.stat_lines import Seen

if TYPE_CHECKING:
    from buildstep.tree.proto import ProtoScan

FORMAT = 4

_GRAIN_NS = 20_000_000
"""No kernel clock that stamps files is coarser than this."""

# -- the index ---------------------------------------------------------------------------------------------

KnownEntry = tuple[Any, ...]
"""The line, whether it has other names; then kind, mode, uid, gid, size, mtime, sha256, target, device,
xattrs."""

_UNTRUSTED = b"?"
"""Before the line of an entry that was too young: nothing has such a line, it only tells what there was."""


def was(old: KnownEntry) -> tuple[Seen, bool]:
    """What lstat said of a known entry, and whether that was to be trusted."""
    line = old[0]
    young = line.startswith(_UNTRUSTED)
    return stat_lines.parse(line[1:] if young else line), not young


@dataclass(frozen=True, slots=True)
class Known:
    """What an index holds. noted: what a build wrote beside it; begun: when the walk began that it is of,
    in ns; excludes: the patterns of that walk; end, whole: bytes of its good frames, and of the first; stamp:
    the file itself, see `StatIndex.stamp`."""

    paths: Mapping[bytes, KnownEntry] = field(default_factory=dict)
    noted: Mapping[str, Any] = field(default_factory=dict)
    begun: int = 0
    excludes: tuple[str, ...] = ()
    end: int = 0
    whole: int = 0
    stamp: tuple[int, ...] = ()


class StatIndex:
    """The index of one proto directory, in a pool's state."""

    def __init__(self, state: Path, proto: Path) -> None:
        name = hashlib.sha256(os.fsencode(os.path.realpath(proto))).hexdigest()[:32]
        self.path = state / "index" / f"{name}.idx"

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
        """What is known of each path; empty when there is no index, or none that can be read."""
        paths: dict[bytes, KnownEntry] = {}
        noted: dict[str, Any] = {}
        excludes: tuple[str, ...] = ()
        begun = good = whole = 0
        stamp = self.stamp
        try:
            data = self.path.read_bytes()
        except OSError:
            return Known()
        for (version, *frame), end in framed.read(data):
            if version != FORMAT:
                return Known()
            first, found, noted, began, excludes = frame
            if first:
                paths.update(found)
                whole = end
            else:
                for path, value in found.items():
                    if value is None:
                        paths.pop(path, None)
                    else:
                        paths[path] = value
            good, begun = end, max(begun, began)
        return Known(paths, noted, begun, tuple(excludes), good, whole, stamp)

    def save(self, scan: ProtoScan, noted: Mapping[str, Any]) -> None:
        """Write down what has been read, and a note beside it.

        A few changes are added to the file's end; many, or the first time, write it anew.
        """
        tail = (scan.begun, scan.exclude.patterns if scan.exclude else ())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with lock(self.path.with_suffix(".lock")):
            few = len(scan.fresh) + len(scan.gone) < len(scan.held) // 10
            if not scan.doubt and few and self._unmoved(scan.known):
                changes = {**dict(_read(scan)), **dict.fromkeys(scan.gone)}
                with self.path.open("ab") as stream:
                    framed.write(stream, (FORMAT, False, changes, dict(noted), *tail))
                return
            with atomic_write(self.path, durable=False) as stream:
                # In pieces, which need less memory; what is noted is of all of them.
                rest = itertools.chain(scan.held.items(), _read(scan))
                while piece := dict(itertools.islice(rest, _PIECE)):
                    framed.write(stream, (FORMAT, True, piece, {}, *tail))
                framed.write(stream, (FORMAT, True, {}, dict(noted), *tail))

    def touch(self) -> None:
        """Note that the index was of use: what is not for long is pruned."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def _unmoved(self, known: Known) -> bool:
        """Whether the file is still the one that the scan was made with, whole, and not of many pieces."""
        same = self.stamp == known.stamp and self.size == known.end
        return bool(known.paths) and same and known.end < 2 * known.whole


_PIECE = 10_000
"""Paths in a frame."""


def _read(scan: ProtoScan) -> Iterator[tuple[bytes, KnownEntry]]:
    """What is to be written of the paths that were not known."""
    limit = scan.begun - _GRAIN_NS
    entries = scan.fresh_entries
    for path, seen in scan.fresh.items():
        entry, line = entries[path], seen.line
        if seen.ctime >= limit or (entry.kind == "f" and not entry.sha256):
            line = _UNTRUSTED + line
        yield path, (
            line, seen.linked, entry.kind, seen.mode, seen.uid, seen.gid, seen.size, seen.mtime,
            entry.sha256, entry.target, entry.rdev, entry.xattrs,
        )  # fmt: skip
