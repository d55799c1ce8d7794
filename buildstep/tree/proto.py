"""A proto directory as it is now."""

from __future__ import annotations

import hashlib
import marshal
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.tree import stat_lines
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.exclude import Exclude
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import link_groups, seen_entry
from buildstep.tree.stat_index import Known, KnownEntry, StatIndex
from buildstep.tree.stat_lines import Seen


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


_LARGE = 1 << 20
"""Bytes of an index from which on it is of a large tree."""


def scan_proto(proto: Path, *, exclude: Exclude | None = None, index: StatIndex | None = None) -> ProtoScan:
    """Walk a proto directory. With an index, files that it knows are not read and need no second call.

    Raises OSError for what cannot be looked at.
    """
    begun = time.time_ns()
    top = os.fsencode(proto)
    large = index is None or not 0 < index.size < _LARGE
    with stat_lines.listing(top, large=large) as listing:
        known = index.load() if index else Known()
        doubt = "the clock was set back since the last build" if known.begun > begun else ""
        held = {} if doubt else known.paths
        trusted = {old[0] for old in held.values()}
        lines = listing()
    if exclude is not None:
        same = exclude.patterns == known.excludes
        lines = _included(lines, exclude, trusted if same else ())
    fresh = {stat_lines.path_of(line): stat_lines.parse(line) for line in lines if line not in trusted}
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
        path = stat_lines.path_of(line)
        directory = stat_lines.kind(line) == "d"
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
