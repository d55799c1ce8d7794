"""A writer that compresses a stream in independent parts on all cores, cut where the content says."""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from buildstep.errors import EmitError
from buildstep.formats.codecs import Codec
from buildstep.system.files import write_all

_SLACK = 512
"""How much longer a part of small entries may get by the last one's padding."""
_MEMORY = 192 << 20
"""Bytes that all compressors of one stream may take for themselves, besides the parts."""
_BATCH = 1 << 20
"""Bytes that are worth a thread's while: small parts are handed on together."""
_BACKLOG = 8 << 20
"""Bytes that may wait to be compressed or written, besides those that are in work."""


class Cuts:
    """Where parts begin: at entries that their paths choose, whatever came before.

    least: what a part has before it may end, in bytes; most: what it has at most, but for padding, and limit:
    with it; an entry that is larger gets parts of its own, cut at multiples of `most`.
    """

    def __init__(self, codec: Codec) -> None:
        self.least = codec.grain
        self.most = 8 * codec.grain
        self.limit = self.most + _SLACK
        # An entry begins a part with a chance in proportion to its size, after one and a half grains on
        # average.
        self._spread = (1 << 32) / (1.5 * codec.grain)

    def before(self, path: bytes, total: int, have: int) -> bool:
        """Whether a part of `have` bytes ends before an entry of `total` bytes, header and content."""
        return have + total > self.most or (have >= self.least and zlib.crc32(path) < total * self._spread)


@dataclass(frozen=True, slots=True)
class Part:
    """One independent member of a stream, in bytes. path: the entry it begins with, or inside of."""

    path: bytes
    raw_offset: int
    raw_length: int
    offset: int
    length: int
    reused: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """A finished stream: hex SHA-256 and size of what came in (raw) and of what was written."""

    raw_sha256: str
    raw_size: int
    sha256: str
    size: int
    parts: tuple[Part, ...]

    @property
    def compressed(self) -> int:
        """Uncompressed bytes that really went through the compressor."""
        return sum(part.raw_length for part in self.parts if not part.reused)


_Job = tuple[bytes, "list[bytes | memoryview] | Fetch"]
"""The entry that a part begins with, and its bytes or what gives them."""
_Done = tuple[bytes, bytes, list[tuple[bytes, int, int, bool]]]
"""Parts in a row: their bytes, compressed, and of each its path, both lengths and whether it was taken."""

Fetch = Callable[[], tuple[bytes, bytes | None]]
"""Gives a whole part: its uncompressed bytes, and what the codec would make of them where that is known. It
is called in a worker thread, and may raise."""


class PartWriter:
    """Writes a compressed stream to `out`, a descriptor, from its present offset on.

    The stream is cut where entries begin, at places that depend on the entries' paths and not on what
    came before, so that another build of nearly the same tree has nearly the same parts (see Cuts). Few
    parts are in memory at a time. Use it as a context manager: leaving by an exception stops the threads.

    Raises EmitError, naming `what`, for whatever fails here or in a thread.
    """

    def __init__(
        self,
        out: int,
        codec: Codec,
        *,
        what: str = "the stream",
        workers: int | None = None,
    ) -> None:
        self._out = out
        self._codec = codec
        self._what = what
        self._chunks: list[bytes | memoryview] = []
        self._size = 0
        self._cuts = Cuts(codec)
        self._limit = self._cuts.limit
        self._large = False
        self._path = b""
        self._first_path = b""
        self._parts_begun = False
        self._error: BaseException | None = None
        self._parts: list[Part] = []
        self._raw_hash = hashlib.sha256()
        self._hash = hashlib.sha256()
        count = min(workers or os.cpu_count() or 1, max(1, _MEMORY // max(codec.memory, 1)))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="compress")
        self._batch: list[_Job] = []
        self._batch_size = 0
        largest = max(_BATCH, self._cuts.most)
        self._queue: queue.Queue[Future[_Done] | None] = queue.Queue(count + 1 + _BACKLOG // largest)
        self._writer = threading.Thread(target=self._write_parts, name="write", daemon=True)
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop(error or EmitError(f"{self._what} was not closed"))

    # -- the caller's side

    def boundary(self, path: bytes, size: int, header: int = 512) -> None:
        """An entry begins here: `header` bytes and then `size` bytes of content, padding apart."""
        total = header + size
        if total > self._cuts.most:
            self._large = True
            self._cut()
            self._limit = header + self._cuts.most
        elif self._large or self._cuts.before(path, total, self._size):
            self._large = False
            self._cut()
        self._path = path
        if not self._size:
            self._first_path = path

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of the stream; they must not change afterwards."""
        size = self._size + len(data)
        if size < self._limit:
            self._chunks.append(data)
            self._size = size
            return
        view = memoryview(data)
        while self._size + len(view) >= self._limit:
            take = self._limit - self._size
            self._chunks.append(view[:take])
            self._size += take
            view = view[take:]
            self._cut()
            self._first_path = self._path
        if view:
            self._chunks.append(view)
            self._size += len(view)

    def begin(self, path: bytes) -> None:
        """A part begins here, with the entry `path`, whatever `boundary` would say of it."""
        self._large = False
        self._cut()
        self._path = self._first_path = path

    def take(self, path: bytes, size: int, fetch: Fetch) -> None:
        """A whole part: the entry it begins with, its uncompressed length (about), and what gives it."""
        self._large = False
        self._cut()
        self._hand_on((path, fetch), size)

    def close(self) -> Stream:
        """Write what is left. The stream is complete when this returns, though not yet on the disk."""
        self._cut()
        # An empty input still needs one member to be a valid stream.
        if self._batch or not self._parts_begun:
            self._submit(self._batch or [(b"", [])])
        self._queue.put(None)
        self._writer.join()
        self._pool.shutdown()
        self._check()
        last = self._parts[-1]
        return Stream(
            raw_sha256=self._raw_hash.hexdigest(),
            raw_size=last.raw_offset + last.raw_length,
            sha256=(self._raw_hash if self._codec.name == "none" else self._hash).hexdigest(),
            size=last.offset + last.length,
            parts=tuple(self._parts),
        )

    def _cut(self) -> None:
        self._limit = self._cuts.most if self._large else self._cuts.limit
        self._check()
        if not self._size:
            return
        chunks, size = self._chunks, self._size
        self._chunks, self._size = [], 0
        self._hand_on((self._first_path, chunks), size)

    def _hand_on(self, job: _Job, size: int) -> None:
        self._batch.append(job)
        self._batch_size += size
        if self._batch_size >= _BATCH:
            batch = self._batch
            self._batch, self._batch_size = [], 0
            self._submit(batch)

    def _submit(self, batch: list[_Job]) -> None:
        self._parts_begun = True
        try:
            future = self._pool.submit(self._work, batch)
        except RuntimeError as error:
            raise EmitError(f"{self._what} is closed") from error
        # Blocks while the threads are behind; the writer takes from the queue even after a failure.
        self._queue.put(future)

    def _check(self) -> None:
        if self._error is not None:
            raise self._failure(self._error) from self._error

    def _failure(self, error: BaseException) -> EmitError:
        if isinstance(error, EmitError):
            return error
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = error.strerror if isinstance(error, OSError) else f"{error}" or repr(error)
        return EmitError(
            f"cannot write {self._what}: {reason}",
            hint="free some space, or write to another file system" if full else "",
            retryable=full,
        )

    def _stop(self, error: BaseException) -> None:
        if not self._writer.is_alive():
            self._pool.shutdown()
            return
        self._error = self._error or error
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._queue.put(None)
        self._writer.join()
        self._pool.shutdown()

    # -- in threads

    def _work(self, batch: list[_Job]) -> _Done:
        raws, packs, told = [], [], []
        for path, job in batch:
            if callable(job):
                raw, packed = job()
            else:
                raw, packed = b"".join(job), None
                job.clear()
            reused = packed is not None
            if packed is None:
                packed = self._codec.compress(raw)
            raws.append(raw)
            packs.append(packed)
            told.append((path, len(raw), len(packed), reused))
        # Together: a thread that has much to do at a time waits seldom for its turn.
        return b"".join(raws), b"".join(packs), told

    def _write_parts(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                item.cancel()
                continue
            try:
                self._append(*item.result())
            except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
                self._error = error
            del item  # else this part's bytes live until the next one comes

    def _append(self, raw: bytes, packed: bytes, told: list[tuple[bytes, int, int, bool]]) -> None:
        self._raw_hash.update(raw)
        if self._codec.name != "none":
            self._hash.update(packed)
        write_all(self._out, packed)
        last = self._parts[-1] if self._parts else Part(b"", 0, 0, 0, 0, reused=False)
        for path, raw_length, length, reused in told:
            raw_offset, offset = last.raw_offset + last.raw_length, last.offset + last.length
            last = Part(path, raw_offset, raw_length, offset, length, reused)
            self._parts.append(last)
