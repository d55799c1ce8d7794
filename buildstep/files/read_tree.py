"""Read the files of a tree into packs: several processes read, hash and compress.

Files with the same content have the same size, so files are shared out by their size: then no two processes
pack the same content.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from buildstep.errors import StoreError
from buildstep.files import pack
from buildstep.system import workers
from buildstep.system.text import shown_path
from buildstep.tree import stat_lines
from buildstep.tree.entry import Entry

FEW = 400
"""Files that one process reads sooner than several have started."""
IN_MEMORY = 8 << 20
"""Bytes of a file that is not streamed, where contents are not cut into chunks."""
_OPENING = 30_000
"""Bytes that are read in the time that it takes to open a file."""
_EVERY = 0.2
_LOOK = 50
"""Files after which a worker looks at the clock."""
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class FileChanged(StoreError):
    """A file is not what it was when the tree was walked."""


class ToRead(NamedTuple):
    """A file that is to be read. number: the caller's; path: on this machine; size (bytes) and mtime (ns) as
    the walk found them; sha256: what its content is known to be, empty for what is not known."""

    number: int
    path: bytes
    size: int
    mtime: int
    sha256: str = ""


class Digested(NamedTuple):
    """Digests of files, by their number."""

    numbers: list[int]
    digests: list[str]


class Packed(NamedTuple):
    """A pack that a worker wrote. digest: its name."""

    digest: str
    path: Path
    size: int


class Read(NamedTuple):
    """Files and bytes that were read since the last one; new: contents that were packed, and their bytes."""

    files: int
    size: int
    new: int = 0
    new_size: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What the workers share. known: digests that the store has; spool: where packs are written; name: which
    no other job in this spool has; compress: whether the frames of packs are."""

    name: str
    known: Collection[str]
    spool: Path
    compress: bool


@dataclass(frozen=True, slots=True)
class Unread:
    """Files of a walk, none of which was read before, each under the first of its names.

    by_size: the numbers of the lines of those that go into packs; files, size: how many regular files there
    are, and their bytes.
    """

    by_size: dict[int, list[int]]
    files: int
    size: int

    @classmethod
    def of(cls, lines: Sequence[bytes], limit: int) -> Unread:
        """Look through the lines of a walk. limit: bytes of the largest file that goes into a pack."""
        sizes: dict[int, int] = {}
        linked: dict[bytes, tuple[bytes, int]] = {}
        for number, line in enumerate(lines):
            head, _, path = line.partition(b"\t")
            inode, size, _, _, _, _, _, links, kind = head.split(b" ")
            if kind != b"f":
                continue
            if links != b"1":
                # A tree can have two file systems, so that an inode is no proof: whoever takes the digests
                # looks at devices, too, and reads what is left over.
                before = linked.get(inode)
                if before is not None and before[0] < path:
                    continue
                if before is not None:
                    del sizes[before[1]]
                linked[inode] = path, number
            sizes[number] = int(size)
        by_size: dict[int, list[int]] = {}
        for number, length in sizes.items():
            if length <= limit:
                by_size.setdefault(length, []).append(number)
        return cls(by_size, len(sizes), sum(sizes.values()))


def of_lines(lines: Sequence[bytes], numbers: Iterable[int], top: bytes) -> Iterator[ToRead]:
    """Yield the files of these lines of a walk of `top`."""
    for number in numbers:
        seen = stat_lines.parse(lines[number])
        yield ToRead(number, top + b"/" + stat_lines.path_of(lines[number]), seen.size, seen.mtime)


def of_entries(files: Sequence[Entry], numbers: Iterable[int]) -> Iterator[ToRead]:
    """Yield those of these files with such numbers."""
    for number in numbers:
        item = files[number]
        yield ToRead(number, item.source, item.size, item.mtime, item.sha256)


def shares(by_size: Mapping[int, list[int]], count: int) -> list[list[int]]:
    """Share out files among so many workers: their numbers, in order; all of one size to the same worker.

    by_size: the numbers of the files of each size.
    """
    if count <= 1 or sum(map(len, by_size.values())) < FEW:
        return [sorted(number for numbers in by_size.values() for number in numbers)]
    found: list[list[int]] = [[] for _ in range(count)]
    work = [0] * count
    for size in sorted(by_size, key=lambda size: (-len(by_size[size]) * (size + _OPENING), size)):
        least = work.index(min(work))
        found[least] += by_size[size]
        work[least] += len(by_size[size]) * (size + _OPENING)
    return [sorted(share) for share in found if share]


class Worker:
    """One worker's part of a job. Sends `Digested`, `Packed` and `Read` values."""

    def __init__(self, job: Job, number: int, send: workers.Send) -> None:
        self._job = job
        self._number = number
        self._send = send
        self._known = set(job.known)
        self._writer: pack.PackWriter | None = None
        self._packs = 0
        self._found = Digested([], [])
        self._size = self._new = self._new_size = 0
        self._next = time.monotonic() + _EVERY

    def run(self, files: Iterable[ToRead]) -> None:
        """Read these files. Raises FileChanged, OSError."""
        known, sha256 = self._known, hashlib.sha256
        for item in files:
            data = read_file(item.path, item.size, item.mtime)
            digest = sha256(data).hexdigest()
            if item.sha256 and item.sha256 != digest:
                raise changed(item.path)
            self._found.numbers.append(item.number)
            self._found.digests.append(digest)
            self._size += len(data)
            if digest not in known:
                known.add(digest)
                self._add(digest, data)
            if not len(self._found.numbers) % _LOOK and time.monotonic() > self._next:
                self._tell()
        self._close()
        self._tell()

    def _add(self, digest: str, data: bytes) -> None:
        if self._writer is None:
            self._packs += 1
            path = self._job.spool / f"{self._job.name}{self._number}.{self._packs}.pack"
            self._writer = pack.PackWriter(path, compress=self._job.compress)
        self._writer.add(digest, data)
        self._new += 1
        self._new_size += len(data)
        if self._writer.size >= pack.TARGET:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            with self._writer as writer:
                written = writer.finish()
            self._writer = None
            self._send(Packed(written.digest, written.path, written.size))

    def _tell(self) -> None:
        self._send(self._found)
        self._send(Read(len(self._found.numbers), self._size, self._new, self._new_size))
        self._found = Digested([], [])
        self._size = self._new = self._new_size = 0
        self._next = time.monotonic() + _EVERY


def read_file(path: bytes, size: int, mtime: int) -> bytes:
    """Return the content of a small file. Raises FileChanged if it is not what the walk found; OSError."""
    fd = os.open(path, _FLAGS)
    try:
        check(fd, path, size, mtime)
        data = os.read(fd, size + 1)
        while len(data) < size and (more := os.read(fd, size + 1 - len(data))):
            data += more
    finally:
        os.close(fd)
    if len(data) != size:
        raise changed(path)
    return data


def check(fd: int, path: bytes, size: int, mtime: int) -> None:
    """Raise FileChanged if an open file is not what the walk found."""
    info = os.fstat(fd)
    if info.st_size != size or info.st_mtime_ns != mtime or not stat.S_ISREG(info.st_mode):
        raise changed(path)


def changed(path: bytes) -> FileChanged:
    """Return the error for a file that changed. path: on this machine."""
    return FileChanged(
        f"{shown_path(path)} changed while it was read",
        hint="nothing may write to the tree meanwhile; try again",
        retryable=True,
    )
