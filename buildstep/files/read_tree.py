"""Read the files of a tree into packs: several processes read, hash and compress.

Files with the same content have the same size, so files are shared out by their size: then no two processes
pack the same content.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from buildstep.errors import StoreError
from buildstep.files import pack
from buildstep.system import workers
from buildstep.system.text import shown_path
from buildstep.tree.entry import Entry

FEW = 400
"""Files that one process reads sooner than several have started."""
IN_MEMORY = 8 << 20
"""Bytes of a file that is not streamed, where contents are not cut into chunks."""
_OPENING = 30_000
"""Bytes that are read in the time that it takes to open a file."""
_EVERY = 0.2
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class FileChanged(StoreError):
    """A file is not what it was when the tree was walked."""


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
    """What the workers read. files: path on this machine, and entry; known: digests that the store has;
    spool: where packs are written; compress: whether their frames are."""

    files: Sequence[tuple[bytes, Entry]]
    known: Collection[str]
    spool: Path
    compress: bool


def shares(files: Sequence[tuple[bytes, Entry]], count: int) -> list[list[int]]:
    """Share out files among so many workers: their numbers, in order; all of one size to the same worker."""
    if count <= 1 or len(files) < FEW:
        return [list(range(len(files)))]
    by_size: dict[int, list[int]] = {}
    for number, (_, item) in enumerate(files):
        by_size.setdefault(item.size, []).append(number)
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
        self._files = self._size = self._new = self._new_size = 0
        self._next = time.monotonic() + _EVERY

    def run(self, numbers: Sequence[int]) -> None:
        """Read these files. Raises FileChanged, OSError."""
        for number in numbers:
            path, item = self._job.files[number]
            data = read_file(path, item)
            digest = hashlib.sha256(data).hexdigest()
            if item.sha256 and item.sha256 != digest:
                raise changed(item)
            self._found.numbers.append(number)
            self._found.digests.append(digest)
            self._files += 1
            self._size += len(data)
            if digest not in self._known:
                self._known.add(digest)
                self._add(digest, data)
            if time.monotonic() > self._next:
                self._tell()
        self._close()
        self._tell()

    def _add(self, digest: str, data: bytes) -> None:
        if self._writer is None:
            self._packs += 1
            path = self._job.spool / f"{self._number}.{self._packs}.pack"
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
        self._send(Read(self._files, self._size, self._new, self._new_size))
        self._found = Digested([], [])
        self._files = self._size = self._new = self._new_size = 0
        self._next = time.monotonic() + _EVERY


def read_file(path: bytes, item: Entry) -> bytes:
    """Return the content of a small file. Raises FileChanged if it is not what the walk found; OSError."""
    fd = os.open(path, _FLAGS)
    try:
        check(fd, item)
        data = os.read(fd, item.size + 1)
        while len(data) < item.size and (more := os.read(fd, item.size + 1 - len(data))):
            data += more
        if len(data) != item.size:
            raise changed(item)
    finally:
        os.close(fd)
    return data


def check(fd: int, item: Entry) -> None:
    """Raise FileChanged if an open file is not what the walk found."""
    info = os.fstat(fd)
    if (info.st_size, info.st_mtime_ns) != (item.size, item.mtime) or not stat.S_ISREG(info.st_mode):
        raise changed(item)


def changed(item: Entry) -> FileChanged:
    """Return the error for a file that changed."""
    return FileChanged(
        f"{shown_path(item.path)} changed while it was read",
        hint="nothing may write to the tree meanwhile; try again",
        retryable=True,
    )
