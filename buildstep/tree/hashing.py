"""SHA-256 of the files of a tree."""

from __future__ import annotations

import contextlib
import hashlib
import os
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from buildstep.system import workers
from buildstep.system.crew import Crew
from buildstep.system.files import CHUNK, ZEROS, data_extents
from buildstep.tree.entry import Entry, FileList

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_SMALL = 64 << 10
"""Files up to this size are read in one go."""
_OPENING = 16 << 10
"""The work for a file besides its content, in bytes that take as long to read and hash."""
_ENOUGH = 8 << 20
"""The work that is given to a worker at a time; for less none is started."""
_AHEAD_BATCHES = 3
"""How much of it a worker has, so that it need not wait for more while we do something else."""


def open_content(root: bytes, entry: Entry) -> int:
    """Open a regular file's content and return the descriptor; a link under that name is refused."""
    path = entry.source or root + b"/" + entry.path
    return os.open(path, _FLAGS)


def hash_entries(root: Path | bytes, entries: Iterable[Entry]) -> int:
    """Fill in the SHA-256 of files that have none, many of them in several processes; returns the bytes read.

    Raises OSError, of the first that cannot be read; WorkerLost.
    """
    with FileHasher(root) as hasher:
        for entry in entries:
            if entry.kind == "f" and not entry.sha256 and not entry.first:
                hasher.add(entry)
        return hasher.finish()


class FileHasher:
    """SHA-256 of files, which begins as soon as they are named; of many in worker processes.

    Use it as a context manager: name files by `add`, and `finish` when there are no more. Workers are started
    when there is enough to do, and end with the block. An entry has its digest when `finish` returns.
    """

    def __init__(self, root: Path | bytes) -> None:
        self._top = os.fsencode(root) + b"/"
        self._batch: list[Entry] = []
        self._batch_work = 0
        self._batches: deque[list[Entry]] = deque()
        self._count = 0
        """Workers that there may be; 0: not known yet."""
        self._stack = contextlib.ExitStack()
        self._crew: Crew | None = None
        self.read = 0
        """Bytes that were read so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def add(self, entry: Entry) -> None:
        """Name a regular file. Raises as `finish`, of a file before it."""
        self._batch.append(entry)
        self._batch_work += entry.size + _OPENING
        if self._batch_work >= _ENOUGH:
            self._submit()

    def finish(self) -> int:
        """Wait for all that were named; returns the bytes read.

        Raises OSError, of the first that cannot be read; WorkerLost.
        """
        if self._crew is None:
            self._take(_hash_batch(self._task(self._batch)), self._batch)
            self._batch = []
            return self.read
        self._submit()
        for found in self._crew.results():
            self._take(found, self._batches.popleft())
        return self.read

    def _submit(self) -> None:
        batch, self._batch, self._batch_work = self._batch, [], 0
        self._count = self._count or workers.count()
        if self._count == 1:
            self._take(_hash_batch(self._task(batch)), batch)
            return
        if self._crew is None:
            self._crew = self._stack.enter_context(Crew(_hash_batch, self._count, ahead=_AHEAD_BATCHES))
        self._batches.append(batch)
        self._crew.give(self._task(batch))
        for found in self._crew.ready():
            self._take(found, self._batches.popleft())

    def _task(self, batch: Sequence[Entry]) -> _Batch:
        top = self._top
        paths = b"\0".join([entry.source or top + entry.path for entry in batch])
        return paths, array("q", [entry.size for entry in batch]).tobytes()

    def _take(self, found: _Hashed, batch: Sequence[Entry]) -> None:
        digests, size, error = found
        self.read += size
        if error is not None:
            raise error
        texts = digests.hex()
        for number, entry in enumerate(batch):
            entry.sha256 = texts[64 * number : 64 * number + 64]


_Batch = tuple[bytes, bytes]
"""Paths with NUL between them, and the size that each is said to have, as packed 64-bit numbers."""
_Hashed = tuple[bytes, int, OSError | None]
"""Digests in a row, the bytes that were read, and why there are no more of them."""


def _hash_batch(batch: _Batch) -> _Hashed:
    paths, packed = batch
    sizes = array("q")
    sizes.frombytes(packed)
    digests = []
    total = 0
    try:
        for path, size in zip(paths.split(b"\0"), sizes, strict=True) if sizes else ():
            fd = os.open(path, _FLAGS)
            try:
                # One byte more: a file that has it has grown, and is read to its end as well.
                data = os.read(fd, size + 1) if size <= _SMALL else b""
                total += len(data)
                state = hashlib.sha256(data)
                if len(data) != size or size > _SMALL:
                    total += _hash_rest(fd, state)
            finally:
                os.close(fd)
            digests.append(state.digest())
    except OSError as error:
        return b"".join(digests), total, error
    return b"".join(digests), total, None


def _hash_rest(fd: int, state: hashlib._Hash) -> int:
    """Hash what is left to read of a file; returns how much that was. Holes are not read."""
    info = os.fstat(fd)
    total = _hash_beside_holes(fd, state, info.st_size) if info.st_blocks * 512 < info.st_size else 0
    while chunk := os.read(fd, CHUNK):
        state.update(chunk)
        total += len(chunk)
    return total


def _hash_beside_holes(fd: int, state: hashlib._Hash, size: int) -> int:
    """Hash a file up to this size, from its offset on, and leave it there; returns the bytes read."""
    total, position = 0, os.lseek(fd, 0, os.SEEK_CUR)
    for begin, length in [*data_extents(fd, size), (size, 0)]:
        _hash_zeros(state, begin - position)
        position, end = os.lseek(fd, max(begin, position), os.SEEK_SET), begin + length
        while position < end and (chunk := os.read(fd, min(CHUNK, end - position))):
            state.update(chunk)
            total += len(chunk)
            position += len(chunk)
    return total


def _hash_zeros(state: hashlib._Hash, count: int) -> None:
    """Hash so many zeros; none where the count is negative."""
    while count > 0:
        state.update(ZEROS[:count] if count < CHUNK else ZEROS)
        count -= CHUNK


def spread_digests(entries: FileList) -> None:
    """Give the later members of each hard-link group the digest of the first."""
    for entry in entries.values():
        if entry.first and entry.kind == "f":
            entry.sha256 = entries[entry.first].sha256


_AHEAD = 4
"""Chunks that may wait to be hashed."""
_THREADED = 4 * CHUNK
"""Files of this size or more are hashed in a thread, beside reading or writing."""


class ContentHash:
    """SHA-256 of a file that comes in pieces, in a thread of its own when that pays. size: the file's; sha1:
    whether that is wanted as well."""

    def __init__(self, size: int, *, sha1: bool = False) -> None:
        names = ["sha256", "sha1"] if sha1 else ["sha256"]
        self._states = [hashlib.new(name, usedforsecurity=False) for name in names]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash") if size >= _THREADED else None
        self._waiting: deque[Future[None]] = deque()
        self._cancelled = False
        self._holes = False

    @property
    def behind(self) -> bool:
        """Whether holes are still being hashed, so that `finish` had better be called later."""
        return self._holes

    def update(self, chunk: bytes | memoryview) -> None:
        if self._pool is None:
            self._update(chunk)
            return
        self._waiting.append(self._pool.submit(self._update, chunk))
        if len(self._waiting) > _AHEAD:
            self._waiting.popleft().result()

    def _update(self, chunk: bytes | memoryview) -> None:
        for state in self._states:
            state.update(chunk)

    def zeros(self, count: int) -> None:
        if not count:
            return
        if self._pool is None:
            self._zeros(count)
        else:
            self._holes = True
            self._waiting.append(self._pool.submit(self._zeros, count))

    def _zeros(self, count: int) -> None:
        while count > 0 and not self._cancelled:
            self._update(ZEROS[:count] if count < CHUNK else ZEROS)
            count -= CHUNK

    @property
    def sha1(self) -> str:
        """The SHA-1, once it is finished, where it is wanted."""
        return self._states[1].hexdigest()

    def finish(self) -> str:
        if self._pool is not None:
            for future in self._waiting:
                future.result()
            self._pool.shutdown()
        return self._states[0].hexdigest()

    def cancel(self) -> None:
        self._cancelled = True
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
