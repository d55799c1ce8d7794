"""Read each file of a tree once, hash it, and give it to every sink."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from buildstep.emit.interface import Sink
from buildstep.errors import EmitError
from buildstep.events import Bus, Reading
from buildstep.system.files import CHUNK, GRAIN, ZEROS, Extents, data_extents, is_zeros
from buildstep.system.text import shown
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.hashing import ContentHash

# A pipe or a terminal that took a file's name must not make us wait.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
SMALL = 64 << 10
"""Files up to this size are read in one go, as if they had no holes."""
_WORTH = 256 << 10
"""Bytes of holes from which on a file can be sparse: for fewer it is not worth it that some readers fail."""
_WINDOW = 8 << 20
"""Bytes that are read ahead while a file is searched for zeros."""


@runtime_checkable
class SparseSink(Protocol):
    """A sink that must know a file's holes before its data."""

    def begin_sparse(self, entry: Entry, extents: Extents) -> None:
        """Begin a file with holes; called instead of `begin`."""


def with_parents(changes: Changes, tree: FileList) -> list[Entry]:
    """Return the entries of a layer, sorted, and the unchanged directories above each change.

    Tools that unpack each layer into a directory of its own do not know a missing parent's owner and mode,
    so a layer has all parents of what is in it, the top too.
    """
    entries = {entry.path: entry for entry in changes.entries}
    for path in [*entries, *changes.removed]:
        parent = path
        while parent:
            parent = parent.rpartition(b"/")[0]
            if parent in entries:
                break
            if parent in tree:
                entries[parent] = tree[parent]
    return [entries[path] for path in sorted(entries)]


def read_pass(
    root: Path | bytes,
    entries: Iterable[tuple[Entry, Sequence[Sink]]],
    bus: Bus,
    *,
    sparse: bool = False,
    sha1: dict[str, str] | None = None,
) -> dict[bytes, str]:
    """Give each entry, in order, to its sinks; returns the hex SHA-256 of every file read, by path.

    sparse: tell sinks that know them of large holes; otherwise their zeros are data as any other.
    sha1: is given the SHA-1 of each file by its SHA-256, both in hex; None where nobody wants it.
    Sockets are left out, with a note. Raises EmitError, naming the file, when one cannot be read, is not the
    file that was listed, changes while it is read, or does not have the SHA-256 of its entry.
    """
    reader = _Reader(os.fsencode(root), sparse=sparse, sha1=sha1)
    with bus.counting(reader.counts):
        try:
            for entry, sinks in entries:
                kind = entry.kind
                if kind == "f" and not entry.first:
                    reader.read(entry, sinks)
                elif kind == "s":
                    bus.note(f"{shown(entry.path)} is a socket and was left out of the image")
                else:
                    for sink in sinks:
                        sink.begin(entry)
                        sink.end(entry)
            return reader.finish()
        finally:
            reader.abandon()


@contextlib.contextmanager
def job(
    bus: Bus, title: str, entries: Iterable[Entry], more: Callable[[], int] = lambda: 0
) -> Iterator[None]:
    """Show how much of these entries has been read, by any read pass, while the block runs.

    more: returns the bytes that were read in other processes.
    """
    total = sum(entry.size for entry in entries if entry.kind == "f" and not entry.first)
    if not total:
        yield
        return
    before = bus.so_far("bytes_read")
    with bus.job(title, total, read=lambda: Reading(bus.so_far("bytes_read") - before + more())):
        yield


def _changed(entry: Entry, how: str) -> EmitError:
    return EmitError(
        f"{shown(entry.path)} {how} while the image was written",
        hint="nothing may write to the tree during a build",
        retryable=True,
    )


class _Reader:
    def __init__(self, root: bytes, *, sparse: bool, sha1: dict[str, str] | None) -> None:
        self._root = root
        self._sha1 = sha1
        self._sparse = sparse
        self._digests: dict[bytes, str] = {}
        self._late: list[tuple[Entry, ContentHash]] = []
        self.files = 0
        self.bytes = 0
        self.filled = 0
        """Bytes of holes that were written as zeros."""

    def counts(self) -> dict[str, int]:
        """Return what was read so far, by the name of its cost."""
        holes = {"bytes_of_holes": self.filled} if self.filled else {}
        return {"files_read": self.files, "bytes_read": self.bytes, **holes}

    def read(self, entry: Entry, sinks: Sequence[Sink]) -> None:
        if entry.size > SMALL:
            with _opened(self._root, entry) as fd:
                self._read_large(fd, entry, sinks)
            return
        chunk = _whole(self._root, entry)
        self.files += 1
        self.bytes += entry.size
        digest = hashlib.sha256(chunk).hexdigest()
        self._known(entry, digest)
        if self._sha1 is not None:
            self._sha1[digest] = sha1_of(chunk)
        for sink in sinks:
            sink.begin(entry)
            if chunk:
                sink.data(0, chunk)
            sink.end(entry)

    def _known(self, entry: Entry, digest: str) -> None:
        if not entry.sha256:
            entry.sha256 = digest
        _compare(entry, digest)
        self._digests[entry.path] = digest

    def _read_large(self, fd: int, entry: Entry, sinks: Sequence[Sink]) -> None:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise _changed(entry, "became something else")
        if before.st_size != entry.size:
            raise _changed(entry, "changed its size")
        extents = _extents(fd, before) if self._sparse else None
        for sink in sinks:
            if extents is not None and isinstance(sink, SparseSink):
                sink.begin_sparse(entry, extents)
            else:
                sink.begin(entry)
        hasher = ContentHash(entry.size, sha1=self._sha1 is not None)
        self._late.append((entry, hasher))
        position = 0
        for begin, length in _stored(fd, before) if extents is None else extents:
            hasher.zeros(begin - position)
            if extents is None:
                self._fill(sinks, position, begin)
            position = begin
            while position < begin + length:
                chunk = os.pread(fd, min(CHUNK, begin + length - position), position)
                if not chunk:
                    raise _changed(entry, "became shorter")
                hasher.update(chunk)
                for sink in sinks:
                    sink.data(position, chunk)
                position += len(chunk)
                self.bytes += len(chunk)
        hasher.zeros(entry.size - position)
        if extents is None:
            self._fill(sinks, position, entry.size)
        after = os.fstat(fd)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise _changed(entry, "changed")
        self.files += 1
        for sink in sinks:
            sink.end(entry)
        # Hashing gigabytes of zeros goes on beside the files that follow.
        if not hasher.behind:
            self._finish_last()

    def _fill(self, sinks: Sequence[Sink], position: int, end: int) -> None:
        """Give the zeros of a hole to the sinks."""
        self.filled += end - position
        while position < end:
            chunk = ZEROS[: end - position]
            for sink in sinks:
                sink.data(position, chunk)
            position += len(chunk)

    def _finish_last(self) -> None:
        entry, hasher = self._late.pop()
        digest = hasher.finish()
        self._known(entry, digest)
        if self._sha1 is not None:
            self._sha1[digest] = hasher.sha1

    def finish(self) -> dict[bytes, str]:
        while self._late:
            self._finish_last()
        return self._digests

    def abandon(self) -> None:
        for _, hasher in self._late:
            hasher.cancel()


def sha1_of(content: bytes) -> str:
    """Return the SHA-1 of a content in hex, which SPDX 2.3 demands of files."""
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def content_of(root: bytes, entry: Entry) -> bytes:
    """Return a small file's content, whose digest is known. Raises EmitError."""
    content = _whole(root, entry)
    _compare(entry, hashlib.sha256(content).hexdigest())
    return content


@contextlib.contextmanager
def _opened(root: bytes, entry: Entry) -> Iterator[int]:
    """Open a file; every error with it, in the block too, names the file."""
    try:
        fd = os.open(entry.source or root + b"/" + entry.path, _FLAGS)
        try:
            yield fd
        finally:
            os.close(fd)
    except OSError as error:
        raise EmitError(f"cannot read {shown(entry.path)}: {error.strerror}") from error


def _whole(root: bytes, entry: Entry) -> bytes:
    # Repeats what `_opened` does: this is called for each of a hundred thousand files.
    try:
        fd = os.open(entry.source or root + b"/" + entry.path, _FLAGS)
        try:
            content = os.read(fd, entry.size + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise EmitError(f"cannot read {shown(entry.path)}: {error.strerror}") from error
    if len(content) != entry.size:
        raise _changed(entry, "changed its size")
    return content


def _compare(entry: Entry, digest: str) -> None:
    if entry.sha256 != digest:
        raise EmitError(
            f"{shown(entry.path)} does not have the content that was recorded for it",
            detail=f"recorded sha256 {entry.sha256}, read {digest}",
            hint="something wrote to it outside of the build; build again with --no-cache",
        )


def extents_of(root: bytes, entry: Entry) -> Extents | None:
    """Return the data of a file as a sparse one's archive will have it: for `begin_sparse`; else None.

    Raises EmitError when it cannot be read or is not the file that was listed.
    """
    with _opened(root, entry) as fd:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size != entry.size:
            raise _changed(entry, "changed")
        return _extents(fd, info)


def _stored(fd: int, info: os.stat_result) -> Extents:
    """Return the pieces of a file that its file system stores."""
    size = info.st_size
    return data_extents(fd, size) if info.st_blocks * 512 < size else [(0, size)]


def _extents(fd: int, info: os.stat_result) -> Extents | None:
    """Return the data of a file with large holes, in whole grains; None for any other file.

    A grain of zeros is a hole, whether the file system stores it or not: otherwise the same content would
    give other bytes after it was copied, or on another file system.
    """
    size = info.st_size
    found: list[tuple[int, int]] = []
    done = ahead = 0
    for offset, length in _stored(fd, info):
        at = max(done, offset - offset % GRAIN)
        while at < offset + length:
            if at >= ahead:
                ahead = at + _WINDOW
                os.posix_fadvise(fd, at, _WINDOW, os.POSIX_FADV_WILLNEED)
            step = min(GRAIN, size - at)
            # Most grains have something in their first byte, and that is all that is read.
            if os.pread(fd, 1, at) != b"\0" or not is_zeros(os.pread(fd, step, at)):
                begin, have = found.pop() if found and sum(found[-1]) == at else (at, 0)
                found.append((begin, have + step))
            at = done = at + step
    return found if size - sum(length for _, length in found) >= _WORTH else None
