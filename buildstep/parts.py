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

from buildstep.compress import Codec
from buildstep.errors import EmitError
from buildstep.fsutil import write_all

_SLACK = 512
"""How much longer a part of small entries may get by the last one's padding."""
_MEMORY = 192 << 20
"""Bytes that all compressors of one stream may take for themselves, besides the parts."""
_BACKLOG = 8 << 20
"""Bytes that may wait to be compressed or written, besides the parts that are in work."""


class Cuts:
    """Where parts begin: at entries that their paths choose, whatever came before.

    least: what a part has before it may end, in bytes; most: what it has at most, but for padding; an entry
    that is larger gets parts of its own, cut at multiples of that.
    """

    def __init__(self, codec: Codec) -> None:
        self.least = codec.grain
        self.most = 8 * codec.grain
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


Fetch = Callable[[], tuple[bytes, bytes]]
"""Gives a part that was made before: its uncompressed bytes, and what the codec would make of them. It is
called in a worker thread, and may raise."""


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
        self._limit = self._cuts.most + _SLACK
        self._large = False
        self._path = b""
        self._first_path = b""
        self._error: BaseException | None = None
        self._parts: list[Part] = []
        self._raw_hash = hashlib.sha256()
        self._hash = hashlib.sha256()
        count = min(workers or os.cpu_count() or 1, max(1, _MEMORY // max(codec.memory, 1)))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="compress")
        self._queue: queue.Queue[tuple[Future[tuple[bytes, bytes, bool]], bytes] | None] = queue.Queue(
            count + 1 + _BACKLOG // self._cuts.most
        )
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

    def take(self, path: bytes, fetch: Fetch) -> None:
        """A whole part that was made before; `path` is the entry it begins with."""
        self._large = False
        self._cut()
        self._submit(path, lambda: (*fetch(), True))

    def close(self) -> Stream:
        """Write what is left. The stream is complete when this returns, though not yet on the disk."""
        self._cut()
        self._queue.put(None)
        self._writer.join()
        self._pool.shutdown()
        self._check()
        # An empty input still needs one member to be a valid stream.
        if not self._parts:
            try:
                self._append(b"", b"", self._codec.compress(b""), reused=False)
            except OSError as error:
                raise self._failure(error) from error
        last = self._parts[-1]
        return Stream(
            raw_sha256=self._raw_hash.hexdigest(),
            raw_size=last.raw_offset + last.raw_length,
            sha256=(self._raw_hash if self._codec.name == "none" else self._hash).hexdigest(),
            size=last.offset + last.length,
            parts=tuple(self._parts),
        )

    def _cut(self) -> None:
        self._limit = self._cuts.most if self._large else self._cuts.most + _SLACK
        self._check()
        if not self._size:
            return
        chunks, path = self._chunks, self._first_path
        self._chunks, self._size = [], 0
        self._submit(path, lambda: self._pack(chunks))

    def _submit(self, path: bytes, job: Callable[[], tuple[bytes, bytes, bool]]) -> None:
        try:
            future = self._pool.submit(job)
        except RuntimeError as error:
            raise EmitError(f"{self._what} is closed") from error
        # Blocks while the threads are behind; the writer takes from the queue even after a failure.
        self._queue.put((future, path))

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

    def _pack(self, chunks: list[bytes | memoryview]) -> tuple[bytes, bytes, bool]:
        raw = b"".join(chunks)
        chunks.clear()
        return raw, self._codec.compress(raw), False

    def _write_parts(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                item[0].cancel()
                continue
            try:
                self._write_part(*item)
            except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
                self._error = error
            del item  # else this part's bytes live until the next one comes

    def _write_part(self, future: Future[tuple[bytes, bytes, bool]], path: bytes) -> None:
        raw, packed, reused = future.result()
        self._append(path, raw, packed, reused=reused)

    def _append(self, path: bytes, raw: bytes, packed: bytes, *, reused: bool) -> None:
        self._raw_hash.update(raw)
        if self._codec.name != "none":
            self._hash.update(packed)
        write_all(self._out, packed)
        last = self._parts[-1] if self._parts else Part(b"", 0, 0, 0, 0, reused=False)
        self._parts.append(
            Part(
                path,
                last.raw_offset + last.raw_length,
                len(raw),
                last.offset + last.length,
                len(packed),
                reused,
            )
        )
