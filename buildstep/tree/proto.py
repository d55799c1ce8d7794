"""A proto directory as it is now, compared with what its index knows, and its digest."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.tree import git_index, proto_digest, proto_limits, recognise, stat_lines
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.exclude import Exclude
from buildstep.tree.git_index import GitIndex
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.recognise import Recognised
from buildstep.tree.scan import complete, link_groups
from buildstep.tree.stat_index import (
    Known,
    Row,
    StatIndex,
    Walked,
    is_linked,
    kind_and_size,
    line_of,
    row_of,
)
from buildstep.tree.stat_lines import Seen


@dataclass(slots=True)
class ProtoDir:
    """A proto directory as it is now.

    top: where it is; started: when the walk began, in ns; known: what the index has; valid: what of that is
    still so; fresh: what lstat said of all other paths; gone: known paths that are not there any more;
    again: what was recognised: paths that are as they are known, and other inodes or times; unread: how many
    files have to be read, and unread_size: their bytes; notes: what was computed of the directory, to be kept
    beside the index; doubt: why the index was not trusted; bytes_read: what was read so far. stable: whether
    what is as it is known keeps the time that it has in images; own: whether `known` is the index of this
    directory, and not that of another checkout; git: what git's index says. explained: see `proto_changes`;
    read_first: `read_few` has read all that was to read; counted: what was recognised is counted.
    """

    top: bytes
    started: int
    known: Known
    valid: Mapping[bytes, Row]
    fresh: dict[bytes, Seen]
    again: Recognised = field(default_factory=Recognised)
    stable: bool = False
    own: bool = True
    git: GitIndex | None = None
    gone: tuple[bytes, ...] = ()
    unread: int = 0
    unread_size: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    doubt: str = ""
    bytes_read: int = 0
    exclude: Exclude | None = None
    explained: tuple[int, list[tuple[str, str]]] | None = None
    read_first: bool = False
    counted: bool = False
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
        number = 12 if self.stable else 7  # of `kept` and of `mtime` in a row
        yield from ((path, row[number]) for path, row in self.valid.items())
        yield from ((path, seen.mtime) for path, seen in self.fresh.items())

    def kept_times(self) -> Iterator[tuple[bytes, int]]:
        """Yield the paths that have another time in images of which content decides the times, and that."""
        yield from ((path, row[12]) for path, row in self.valid.items() if row[12] != row[7])

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
        return self.same and not self.again.same and self.own

    @property
    def same(self) -> bool:
        """Whether all is there as it is known, whatever its inodes and times."""
        return bool(self.valid) and not self.fresh and not self.gone

    @property
    def checkout(self) -> bool:
        """Whether this is another checkout: not one path is the inode that it was."""
        return 1 < len(self.again.same) == len(self.valid)

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
            prefix, stable = self.top + b"/", self.stable
            fresh = self.fresh_entries
            found = {
                path: Entry(
                    path, kind, mode, uid, gid, size if kind == "f" else 0, sha256, target, rdev, xattrs, b"",
                    kept if stable else mtime, prefix + path,
                )
                for path, (_, _, kind, mode, uid, gid, size, mtime, sha256, target, rdev, xattrs, kept, _)
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
            for path, digest in self.again.digests.items():
                found[path].sha256 = digest
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
                known=None if self.doubt or not self.own else self.known,
                valid=self.valid,
                same=self.again.same,
                gone=self.gone,
                fresh=(
                    (path, row_of(entries[path], seen, started=self.started, blob=self._blob(path, seen)))
                    for path, seen in self.fresh.items()
                ),
                fresh_count=len(self.fresh),
                started=self.started,
                excludes=self.excludes,
                notes=self.notes,
            )
        )

    def _blob(self, path: bytes, seen: Seen) -> bytes:
        """The blob of git that a file's content is, where git's index alone tells."""
        if self.git is None:
            return b""
        return self.git.alone(path, seen, self.top + b"/" + path if self.read_first else b"")

    @property
    def excludes(self) -> tuple[str, ...]:
        """The patterns of what is left out."""
        return self.exclude.patterns if self.exclude else ()

    # -- its digest -----------------------------------------------------------------------------------

    def digest(self, *, owners: bool, epoch: int | None, timed: bool = True) -> str:
        """Return a digest over all of the directory: what no build can tell apart has the same one.

        owners: whether the owners that it has on the CI host matter; epoch: the latest time (s) that an
        image tells of it, None for no limit; timed: whether times matter. Every file must have been read.
        """
        name = proto_digest.note_name(owners, epoch, timed)
        if name not in self.notes:
            before = self.known.notes.get(name)
            self.notes[name] = proto_digest.digest(self, before, owners=owners, epoch=epoch, timed=timed)
        return str(self.notes[name][0])

    def known_digest(self, *, owners: bool, epoch: int | None, timed: bool = True) -> str:
        """Return the digest of what the index has; empty where nobody asked for it then."""
        found = self.known.notes.get(proto_digest.note_name(owners, epoch, timed))
        return str(found[0]) if found else ""


FEW_FILES = 2000
FEW_BYTES = 16 << 20

_LARGE = 1 << 20
"""Bytes of an index from which on it is of a large tree."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """How a directory is recognised that was checked out anew. last: the index of another checkout, which the
    component's last image is of, if there is one; stable: see `ProtoDir`."""

    last: StatIndex | None = None
    stable: bool = False


def scan_proto(
    proto: Path,
    *,
    exclude: Exclude | None = None,
    index: StatIndex | None = None,
    walk: stat_lines.Walk | None = None,
    what: str = "the proto directory",
    memory: Memory | None = None,
) -> ProtoDir:
    """Walk a proto directory. With an index, files that it knows are not read and need no second call.

    walk: of a caller that has just walked it; what: how messages call it; memory: read now what is likely to
    be as it is known although lstat says otherwise, to recognise it.
    Raises UsageError for what no image can hold and for what cannot be read (`proto_limits`), OSError where
    that is the whole directory.
    """
    top = os.fsencode(proto)
    large = index is None or not 0 < index.size < _LARGE
    with stat_lines.walking(top, large=large, done=walk) as walked:
        own = index.load() if index else Known()
        other = memory.last.load() if memory and memory.last else Known()
        known = other if other.paths else own
        valid = own.paths
        trusted = set(map(line_of, valid.values()))
        walk = walked()
    started, lines = walk.started, walk.lines
    doubt = "the clock was set back since the last build" if own.started > started else ""
    if doubt:
        valid, trusted = {}, set()
    if exclude is not None:
        same = exclude.patterns == own.excludes
        lines = included(lines, exclude, trusted if same else set())
    rest, valid = _compared(lines, valid, trusted)
    again, git = Recognised(), None
    if known is not own:
        again, valid, rest = recognise.as_known(valid, known.paths), {}, lines
    if memory is not None and rest:
        attributes = stat_lines.named(walk.lines, b".gitattributes")
        git = _recognise(top, rest, known, again, attributes, started)
    if again.same:
        valid = {**valid, **again.same} if valid else again.same
        rest = stat_lines.without(rest, again.same)
    fresh = {stat_lines.path_of(line): stat_lines.parse(line) for line in rest}
    proto_limits.refuse(top, fresh, stat_lines.among(lines, walk.unread), what)
    gone: tuple[bytes, ...] = ()
    if len(valid) != len(known.paths):  # of which it has no others
        gone = tuple(path for path in known.paths if path not in valid and path not in fresh)
    found = ProtoDir(
        top, started, known, valid, fresh, again, bool(memory and memory.stable), known is own, git, gone,
        doubt=doubt, exclude=exclude,
    )  # fmt: skip
    files = [seen.size for path, seen in fresh.items() if seen.kind == "f" and path not in again.digests]
    found.unread, found.unread_size = len(files), sum(files)
    found.bytes_read = again.bytes
    if found.unchanged:
        found.notes = dict(known.notes)
    return found


def _recognise(
    top: bytes, lines: list[bytes], known: Known, again: Recognised, attributes: list[bytes], started: int
) -> GitIndex | None:
    """Add what is recognised of these lines, and return what git's index says. attributes: paths of files."""
    git = git_index.find(top, attributes)
    rest = stat_lines.without(lines, again.same.keys() | again.digests.keys())
    again.add(recognise.recognise(top, rest, known.paths, git=git, started=started))
    return git


def _compared(
    lines: list[bytes], known: Mapping[bytes, Row], trusted: set[bytes]
) -> tuple[list[bytes], Mapping[bytes, Row]]:
    """Return the lines that are not as they are known, and what of the known rows is as it was."""
    rest = [line for line in lines if line not in trusted]
    if len(rest) == len(lines):
        return rest, {}
    if not rest and len(lines) == len(known):
        return rest, known
    there = set(lines)
    return rest, {path: old for path, old in known.items() if line_of(old) in there}


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
