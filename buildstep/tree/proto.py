"""A proto directory as it is now, compared with what its index knows, and its digest."""

from __future__ import annotations

import hashlib
import itertools
import marshal
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.tree import proto_limits, stat_lines
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.exclude import Exclude
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import complete, link_groups
from buildstep.tree.stat_index import (
    Known,
    Row,
    StatIndex,
    Walked,
    is_linked,
    kind_and_size,
    known_entry,
    line_of,
    row_of,
)
from buildstep.tree.stat_lines import Seen


@dataclass(slots=True)
class ProtoDir:
    """A proto directory as it is now.

    top: where it is; started: when the walk began, in ns; known: what the index has; valid: what of that is
    still so; fresh: what lstat said of all other paths; gone: known paths that are not there any more;
    unread: how many files have to be read, and unread_size: their bytes; notes: what was computed of the
    directory, to be kept beside the index; doubt: why the index was not trusted; bytes_read: what was read
    so far. explained: see `proto_changes`; read_first: `read_few` has read all that was to read.
    """

    top: bytes
    started: int
    known: Known
    valid: Mapping[bytes, Row]
    fresh: dict[bytes, Seen]
    gone: tuple[bytes, ...] = ()
    unread: int = 0
    unread_size: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    doubt: str = ""
    bytes_read: int = 0
    exclude: Exclude | None = None
    explained: tuple[int, list[tuple[str, str]]] | None = None
    read_first: bool = False
    _entries: FileList | None = None
    _fresh: FileList | None = None
    _inodes: dict[bytes, tuple[int, int]] | None = None
    _totals: tuple[int, int] | None = None
    _fresh_files: tuple[int, int] | None = None

    # -- what is there --------------------------------------------------------------------------------

    @property
    def paths(self) -> Iterator[bytes]:
        """Every path, in no order."""
        yield from self.valid
        yield from self.fresh

    def times(self) -> Iterator[tuple[bytes, int]]:
        """Yield every path with its mtime (ns), in no order."""
        yield from ((path, known_entry(row).mtime) for path, row in self.valid.items())
        yield from ((path, seen.mtime) for path, seen in self.fresh.items())

    def kind(self, path: bytes) -> str:
        """The kind of what is at a path; empty where nothing is."""
        if (row := self.valid.get(path)) is not None:
            return kind_and_size(row)[0]
        seen = self.fresh.get(path)
        return "" if seen is None else seen.kind

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
            sizes = [size for kind, size in map(kind_and_size, self.valid.values()) if kind == "f"]
            count, size = self.fresh_files
            self._totals = len(sizes) + count, sum(sizes) + size
        return self._totals

    @property
    def fresh_files(self) -> tuple[int, int]:
        """How many of the regular files are fresh, and their bytes."""
        if self._fresh_files is None:
            sizes = [seen.size for seen in self.fresh.values() if seen.kind == "f"]
            self._fresh_files = len(sizes), sum(sizes)
        return self._fresh_files

    @property
    def unchanged(self) -> bool:
        """Whether every entry of the index holds and none is missing."""
        return bool(self.valid) and not self.fresh and not self.gone

    @property
    def changed(self) -> bool:
        """Whether there was an index, and something is not as it says."""
        return bool(self.known.paths) and not self.unchanged

    @property
    def inodes(self) -> dict[bytes, tuple[int, int]]:
        """(device, inode) of every path that has other names. Made on first use."""
        if self._inodes is None:
            linked = list(itertools.compress(self.valid, map(is_linked, self.valid.values())))
            linked += [path for path, seen in self.fresh.items() if seen.links > 1 and seen.linked]
            self._inodes = {}
            for path in linked:
                info = os.lstat(self.top + b"/" + path)
                self._inodes[path] = (info.st_dev, info.st_ino)
        return self._inodes

    @property
    def entries(self) -> FileList:
        """By path in the proto, each with its `source`; hashed where the index holds. Made on first use.

        Whoever places them in a root may change their paths and owners; `digest` and `explain` do not
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
                in self.valid.items()
            }  # fmt: skip
            found |= fresh
            if self.inodes:
                link_groups(found, self.inodes)
            self._entries = found
        return self._entries

    def drop_entries(self) -> None:
        """Free the memory of `entries`; those of `fresh_entries` stay.

        Nothing is done where files have several names: what was made of their groups is needed.
        """
        if not self.inodes:
            self._entries = None

    @property
    def fresh_entries(self) -> FileList:
        """Of `entries` those that the index does not have, or not as they are."""
        if self._fresh is None:
            prefix = self.top + b"/"
            found = {
                path: complete(
                    Entry(
                        path, it.kind, it.mode, it.uid, it.gid, it.size, mtime=it.mtime, source=prefix + path
                    ),
                    prefix + path,
                )
                for path, it in self.fresh.items()
            }  # fmt: skip
            linked = {path: inode for path, inode in self.inodes.items() if path in found}
            if linked:
                link_groups(found, linked)
            self._fresh = found
        return self._fresh

    # -- reading it -----------------------------------------------------------------------------------

    def read_few(self) -> bool:
        """Return whether the content of every file is known; where only a few are not, read them now.

        What changed can then be told exactly before anything is done.
        """
        if not self.unread:
            return True
        if self.unread > FEW_FILES or self.unread_size > FEW_BYTES:
            return False
        try:
            self._read(self.fresh_entries)
        except OSError:  # it went, or may not be read: the build will say so
            return False
        self.read_first = True
        return True

    def read_all(self) -> None:
        """Read every file whose content is not known yet."""
        self._read(self.entries)

    def _read(self, entries: FileList) -> None:
        self.bytes_read += hash_entries(b"", entries.values())
        spread_digests(entries)
        self.unread = self.unread_size = 0

    def save(self, index: StatIndex) -> None:
        """Keep in the index what is known of the directory now."""
        entries = self.fresh_entries
        index.save(
            Walked(
                known=None if self.doubt else self.known,
                valid=self.valid,
                gone=self.gone,
                fresh=(
                    (path, row_of(entries[path], seen, started=self.started))
                    for path, seen in self.fresh.items()
                ),
                fresh_count=len(self.fresh),
                started=self.started,
                excludes=self.excludes,
                notes=self.notes,
            )
        )

    @property
    def excludes(self) -> tuple[str, ...]:
        """The patterns of what is left out."""
        return self.exclude.patterns if self.exclude else ()

    # -- its digest -----------------------------------------------------------------------------------

    def digest(self, *, owners: bool, epoch: int | None) -> str:
        """Return a digest over all of the directory: what no build can tell apart has the same one.

        owners: whether the owners that it has on the CI host matter; epoch: the latest time (s) that an
        image tells of it, None for no limit. Every file must have been read.
        """
        name = _note_name(owners, epoch)
        if name not in self.notes:
            self.notes[name] = _digest(self, self.known.notes.get(name), owners=owners, epoch=epoch)
        return str(self.notes[name][0])

    def known_digest(self, *, owners: bool, epoch: int | None) -> str:
        """Return the digest of what the index has; empty where nobody asked for it then."""
        found = self.known.notes.get(_note_name(owners, epoch))
        return str(found[0]) if found else ""


FEW_FILES = 2000
FEW_BYTES = 16 << 20

_LARGE = 1 << 20
"""Bytes of an index from which on it is of a large tree."""


def scan_proto(
    proto: Path,
    *,
    exclude: Exclude | None = None,
    index: StatIndex | None = None,
    walk: stat_lines.Walk | None = None,
    what: str = "the proto directory",
) -> ProtoDir:
    """Walk a proto directory. With an index, files that it knows are not read and need no second call.

    walk: of a caller that has just walked it; what: how messages call it.
    Raises UsageError for what no image can hold and for what cannot be read (`proto_limits`), OSError where
    that is the whole directory.
    """
    top = os.fsencode(proto)
    large = index is None or not 0 < index.size < _LARGE
    with stat_lines.walking(top, large=large, done=walk) as walked:
        known = index.load() if index else Known()
        valid = known.paths
        trusted = set(map(line_of, valid.values()))
        walk = walked()
    started, lines = walk.started, walk.lines
    doubt = "the clock was set back since the last build" if known.started > started else ""
    if doubt:
        valid, trusted = {}, set()
    if exclude is not None:
        same = exclude.patterns == known.excludes
        lines = included(lines, exclude, trusted if same else set())
    fresh = {stat_lines.path_of(line): stat_lines.parse(line) for line in lines if line not in trusted}
    proto_limits.refuse(top, fresh, stat_lines.among(lines, walk.unread), what)
    gone: tuple[bytes, ...] = ()
    if fresh or len(lines) != len(valid):
        there = set(lines)
        valid = {path: old for path, old in valid.items() if line_of(old) in there}
        gone = tuple(path for path in known.paths if path not in valid and path not in fresh)
    found = ProtoDir(top, started, known, valid, fresh, gone, doubt=doubt, exclude=exclude)
    found.unread, found.unread_size = found.fresh_files
    if found.unchanged:
        found.notes = dict(known.notes)
    return found


def included(lines: Sequence[bytes], exclude: Exclude, trusted: set[bytes]) -> list[bytes]:
    """Return the lines that no pattern keeps out. trusted: lines that are known to be in."""
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


# -- digests ------------------------------------------------------------------------------------------------


def _note_name(owners: bool, epoch: int | None) -> str:
    return f"digest {owners} {epoch}"


_Digests = tuple[str, dict[bytes, bytes]]
"""The digest of a proto directory, and those of the directories in it that it is made of."""


def _digest(proto: ProtoDir, before: _Digests | None, *, owners: bool, epoch: int | None) -> _Digests:
    """Compute the digest. before: that of the index; digests of unchanged directories are taken from it."""
    folders, done = _folders(proto, before)
    facts = _facts(proto, owners=owners, limit=None if epoch is None else epoch * 1_000_000_000)
    for folder, paths in folders.items():
        if paths:
            # Version 2: equal values, equal bytes.
            data = marshal.dumps([facts(path) for path in sorted(paths)], 2)
            done[folder] = hashlib.sha256(data).digest()
    return hashlib.sha256(marshal.dumps(sorted(done.items()), 2)).hexdigest(), done


def _folders(proto: ProtoDir, before: _Digests | None) -> tuple[dict[bytes, list[bytes]], dict[bytes, bytes]]:
    """Return the paths in each directory whose digest has to be computed, and the digests of the others."""
    folders: dict[bytes, list[bytes]] = {}
    if before is not None and not proto.doubt and proto.excludes == proto.known.excludes:
        folders = {path.rpartition(b"/")[0]: [] for path in (*proto.fresh, *proto.gone)}
        for path in proto.paths:
            if (rows := folders.get(path.rpartition(b"/")[0])) is not None:
                rows.append(path)
        return folders, {folder: value for folder, value in before[1].items() if folder not in folders}
    for path in proto.paths:
        folders.setdefault(path.rpartition(b"/")[0], []).append(path)
    return folders, {}


def _facts(proto: ProtoDir, *, owners: bool, limit: int | None) -> Callable[[bytes], tuple[Any, ...]]:
    """Return a function that gives what of a path can matter to an image. limit: the latest time (ns)."""
    entries, valid, fresh, inodes = proto.fresh_entries, proto.valid, proto.fresh, proto.inodes
    leaders: dict[tuple[int, int], bytes] = {}
    hashes: dict[bytes, str] = {}
    for path in sorted(inodes):
        first = leaders.setdefault(inodes[path], path)
        known = entries[path].sha256 if path in entries else known_entry(valid[path]).sha256
        hashes.setdefault(first, known)

    def facts(path: bytes) -> tuple[Any, ...]:
        old = valid.get(path)
        if old is not None:
            _, _, kind, mode, uid, gid, _, mtime, sha256, target, rdev, xattrs = old
        else:
            entry, seen = entries[path], fresh[path]
            kind, mode, uid, gid, mtime = seen.kind, seen.mode, seen.uid, seen.gid, seen.mtime
            sha256, target, rdev, xattrs = entry.sha256, entry.target, entry.rdev, entry.xattrs
        first = b""
        if path in inodes:
            first = leaders[inodes[path]]
            sha256 = hashes[first]
        assert sha256 or kind != "f", path
        if limit is not None and mtime > limit:
            mtime = limit
        if kind == "l":
            mode = 0
        return path, kind, mode, (uid, gid) if owners else None, sha256, target, rdev, xattrs, first, mtime

    return facts
