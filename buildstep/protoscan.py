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
import marshal
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep import statlines
from buildstep.excludes import Exclude
from buildstep.filelist import Entry, FileList, hash_entries, link_groups, seen_entry, spread_digests
from buildstep.statlines import Seen
from buildstep.system import framed
from buildstep.system.files import atomic_write
from buildstep.system.locks import lock

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
    return statlines.parse(line[1:] if young else line), not young


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


@dataclass(slots=True)
class ProtoScan:
    """A proto directory as it is.

    top: where it is; known: what the index has, and held: what of that is still so; fresh: what is said of
    all else, by path; gone: known paths that are not there; unread: how many files have to be read, and
    unread_size: their bytes; noted: what the last build wrote beside the index, if nothing changed since;
    begun: when the walk began, in ns; doubt: why the index was not trusted; read: bytes that were read on its
    behalf.
    """

    top: bytes
    begun: int
    known: Known
    held: Mapping[bytes, KnownEntry]
    fresh: dict[bytes, Seen]
    gone: tuple[bytes, ...] = ()
    unread: int = 0
    unread_size: int = 0
    noted: dict[str, Any] = field(default_factory=dict)
    doubt: str = ""
    read: int = 0
    exclude: Exclude | None = None
    told: tuple[int, list[tuple[str, str]]] | None = None
    _entries: FileList | None = None
    _fresh: FileList | None = None
    _inodes: dict[bytes, tuple[int, int]] | None = None
    _totals: tuple[int, int] | None = None

    @property
    def paths(self) -> Iterator[bytes]:
        """Every path, in no order."""
        yield from self.held
        yield from self.fresh

    @property
    def files(self) -> int:
        """How many regular files there are."""
        return self._total()[0]

    @property
    def size(self) -> int:
        """The bytes of all regular files."""
        return self._total()[1]

    def _total(self) -> tuple[int, int]:
        if self._totals is None:
            sizes = [old[6] for old in self.held.values() if old[2] == "f"]
            sizes += [seen.size for seen in self.fresh.values() if seen.kind == "f"]
            self._totals = len(sizes), sum(sizes)
        return self._totals

    @property
    def unchanged(self) -> bool:
        """Whether every entry of the index holds and none is missing."""
        return bool(self.held) and not self.fresh and not self.gone

    @property
    def changed(self) -> bool:
        """Whether there was an index, and something is not as it says."""
        return bool(self.known.paths) and not self.unchanged

    @property
    def inodes(self) -> dict[bytes, tuple[int, int]]:
        """(device, inode) of every path that has others beside it. Made on first use."""
        if self._inodes is None:
            linked = [path for path, old in self.held.items() if old[1]]
            linked += [path for path, seen in self.fresh.items() if seen.links > 1 and seen.linked]
            found = {}
            for path in linked:
                info = os.lstat(self.top + b"/" + path)
                found[path] = (info.st_dev, info.st_ino)
            self._inodes = found
        return self._inodes

    @property
    def entries(self) -> FileList:
        """By path in the proto, each with its `source`; hashed where the index holds. Made on first use.

        Whoever lays them on a root may change their paths and owners; `digest` and `explain` do not
        look at those.
        """
        if self._entries is None:
            prefix = self.top + b"/"
            fresh = self.fresh_entries
            found = {
                path: Entry(
                    path, kind, mode, uid, gid, size if kind == "f" else 0, sha256, target, rdev, xattrs, b"",
                    mtime, prefix + path,
                )
                for path, (_, _, kind, mode, uid, gid, size, mtime, sha256, target, rdev, xattrs)
                in self.held.items()
            }  # fmt: skip
            found |= fresh
            if self.inodes:
                link_groups(found, self.inodes)
            self._entries = found
        return self._entries

    def forget_entries(self) -> None:
        """Let `entries` go, which are large; those of `fresh_entries` stay. Not where files have several
        names: what `lay` made of their groups is needed."""
        if not self.inodes:
            self._entries = None

    @property
    def fresh_entries(self) -> FileList:
        """Of `entries` those that the index does not have, or not as they are."""
        if self._fresh is None:
            prefix = self.top + b"/"
            found = {
                path: seen_entry(path, prefix + path, it.kind, it.mode, it.uid, it.gid, it.size, it.mtime)
                for path, it in self.fresh.items()
            }
            for path, entry in found.items():
                entry.source = prefix + path
            linked = {path: inode for path, inode in self.inodes.items() if path in found}
            if linked:
                link_groups(found, linked)
            self._fresh = found
        return self._fresh


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


_LARGE = 1 << 20
"""Bytes of an index from which on it is of a large tree."""


def scan_proto(proto: Path, *, exclude: Exclude | None = None, index: StatIndex | None = None) -> ProtoScan:
    """Walk a proto directory. With an index, files that it knows are not read and need no second call.

    Raises OSError for what cannot be looked at.
    """
    begun = time.time_ns()
    top = os.fsencode(proto)
    large = index is None or not 0 < index.size < _LARGE
    with statlines.listing(top, large=large) as listing:
        known = index.load() if index else Known()
        doubt = "the clock was set back since the last build" if known.begun > begun else ""
        held = {} if doubt else known.paths
        trusted = {old[0] for old in held.values()}
        lines = listing()
    if exclude is not None:
        same = exclude.patterns == known.excludes
        lines = _included(lines, exclude, trusted if same else ())
    fresh = {statlines.path_of(line): statlines.parse(line) for line in lines if line not in trusted}
    gone: tuple[bytes, ...] = ()
    if fresh or len(lines) != len(held):
        seen = set(lines)
        held = {path: old for path, old in held.items() if old[0] in seen}
        gone = tuple(path for path in known.paths if path not in held and path not in fresh)
    scan = ProtoScan(top, begun, known, held, fresh, gone, doubt=doubt, exclude=exclude)
    sizes = [seen.size for seen in fresh.values() if seen.kind == "f"]
    scan.unread, scan.unread_size = len(sizes), sum(sizes)
    if scan.unchanged:
        scan.noted = dict(known.noted)
    return scan


def _included(lines: Sequence[bytes], exclude: Exclude, trusted: Sequence[bytes] | set[bytes]) -> list[bytes]:
    """Those lines that no pattern keeps out. trusted: lines that are known to be in."""
    out: set[bytes] = set()
    found = []
    for line in lines:
        if line in trusted:
            found.append(line)
            continue
        path = statlines.path_of(line)
        directory = statlines.kind(line) == "d"
        # Parents come before what they hold.
        if path.rpartition(b"/")[0] in out or exclude(path, directory):
            if directory:
                out.add(path)
            continue
        found.append(line)
    return found


# -- what it amounts to -------------------------------------------------------------------------------------

FEW_FILES = 2000
FEW_BYTES = 16 << 20


def read_few(scan: ProtoScan) -> bool:
    """Whether the content of every file is known; where only a few are not, they are read now.

    What changed can then be told exactly before anything is done.
    """
    if not scan.unread:
        return True
    if scan.unread > FEW_FILES or scan.unread_size > FEW_BYTES:
        return False
    entries = scan.fresh_entries
    try:
        scan.read += hash_entries(b"", entries.values())
    except OSError:  # it went, or may not be read: the build will say so
        return False
    spread_digests(entries)
    scan.unread = scan.unread_size = 0
    return True


def read_all(scan: ProtoScan) -> None:
    """Read every file whose content is not known yet."""
    scan.read += hash_entries(b"", scan.entries.values())
    spread_digests(scan.entries)
    scan.unread = scan.unread_size = 0


def digest(scan: ProtoScan, *, owners: bool, epoch: int | None) -> str:
    """A digest over all of a proto directory: what no build can tell apart has the same one.

    owners: whether the owners that it has on the agent matter; epoch: the latest time (s) that an image
    tells of it, None for no limit. Every file must have been read.
    """
    name = f"digest {owners} {epoch}"
    if name not in scan.noted:
        scan.noted[name] = _digest(scan, name, owners=owners, epoch=epoch)
    return str(scan.noted[name][0])


def known_digest(scan: ProtoScan, *, owners: bool, epoch: int | None) -> str:
    """The same of what the index has; empty where nobody asked for it then."""
    found = scan.known.noted.get(f"digest {owners} {epoch}")
    return str(found[0]) if found else ""


def _digest(scan: ProtoScan, name: str, *, owners: bool, epoch: int | None) -> tuple[str, dict[bytes, bytes]]:
    """The digest, and those of the folders that it is made of: those where nothing changed are known."""
    leaders: dict[tuple[int, int], bytes] = {}
    for path in sorted(scan.inodes):
        leaders.setdefault(scan.inodes[path], path)
    limit = None if epoch is None else epoch * 1_000_000_000
    entries, held, fresh = scan.fresh_entries, scan.held, scan.fresh
    folders: dict[bytes, list[bytes]] = {}
    done: dict[bytes, bytes] = {}
    before = scan.known.noted.get(name)
    excludes = scan.exclude.patterns if scan.exclude else ()
    if before is not None and not scan.doubt and excludes == scan.known.excludes:
        folders = {path.rpartition(b"/")[0]: [] for path in (*fresh, *scan.gone)}
        done = {folder: value for folder, value in before[1].items() if folder not in folders}
        for path in (*held, *fresh):
            if (rows := folders.get(path.rpartition(b"/")[0])) is not None:
                rows.append(path)
    else:
        for path in (*held, *fresh):
            folders.setdefault(path.rpartition(b"/")[0], []).append(path)
    hashes: dict[bytes, str] = {}
    for path in sorted(scan.inodes):
        first = leaders[scan.inodes[path]]
        hashes.setdefault(first, entries[path].sha256 if path in entries else held[path][8])

    def told(path: bytes) -> tuple[Any, ...]:
        old = held.get(path)
        if old is not None:
            _, _, kind, mode, uid, gid, _, mtime, sha256, target, rdev, xattrs = old
        else:
            entry, seen = entries[path], fresh[path]
            kind, mode, uid, gid, mtime = seen.kind, seen.mode, seen.uid, seen.gid, seen.mtime
            sha256, target, rdev, xattrs = entry.sha256, entry.target, entry.rdev, entry.xattrs
        first = b""
        if path in scan.inodes:
            first = leaders[scan.inodes[path]]
            sha256 = hashes[first]
        assert sha256 or kind != "f", path
        if limit is not None and mtime > limit:
            mtime = limit
        if kind == "l":
            mode = 0
        return path, kind, mode, (uid, gid) if owners else None, sha256, target, rdev, xattrs, first, mtime

    for folder, paths in folders.items():
        if paths:
            # Version 2: equal values, equal bytes.
            data = marshal.dumps([told(path) for path in sorted(paths)], 2)
            done[folder] = hashlib.sha256(data).digest()
    return hashlib.sha256(marshal.dumps(sorted(done.items()), 2)).hexdigest(), done
