"""Write a compressed stream in independent chunks, on all cores.

A chunk is a member or frame that stands alone (RFC 1952 and RFC 8878: a file is a series of them). Chunks
begin at entries that their paths choose, so that nearly the same tree gives nearly the same chunks.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from buildstep.errors import EmitError
from buildstep.formats.codecs import Codec
from buildstep.system.files import write_all
from buildstep.system.workers import cores

_SLACK = 512
"""Bytes that the padding of its last entry may add to a chunk of small entries."""
_MEMORY = 192 << 20
"""Bytes that all compressors of one stream may take for themselves, besides the chunks."""
_BATCH = 1 << 20
"""Bytes that a thread is given at a time: small chunks go together."""
_BACKLOG = 8 << 20
"""Bytes that may wait to be compressed or written, besides those in work."""


class ChunkBoundaries:
    """Decides where chunks begin: at entries chosen by a hash of their path, whatever came before.

    least: bytes that a chunk has before it may end; most: what it has at most without padding; limit: with
    padding. A larger entry gets chunks of its own, cut at multiples of `most`.
    """

    def __init__(self, codec: Codec) -> None:
        self.least = codec.grain
        self.most = 8 * codec.grain
        self.limit = self.most + _SLACK
        # An entry begins a chunk with a chance in proportion to its size: on average after 1.5 grains.
        self._spread = (1 << 32) / (1.5 * codec.grain)

    def before(self, path: bytes, total: int, have: int) -> bool:
        """Tell whether a chunk of `have` bytes ends before an entry of `total` bytes, header and content."""
        return have + total > self.most or (have >= self.least and zlib.crc32(path) < total * self._spread)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One independent member of a stream. path: of the entry that it begins with, or inside of.

    Offsets and lengths are in bytes, raw ones before compression. reused: it was not compressed now.
    """

    path: bytes
    raw_offset: int
    raw_length: int
    offset: int
    length: int
    reused: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """A finished stream: hex SHA-256 and size before (raw) and after compression, and its chunks."""

    raw_sha256: str
    raw_size: int
    sha256: str
    size: int
    chunks: tuple[Chunk, ...]

    @property
    def compressed(self) -> int:
        """Uncompressed bytes that went through the compressor."""
        return sum(chunk.raw_length for chunk in self.chunks if not chunk.reused)


Fetch = Callable[[], tuple[bytes, bytes | None]]
"""Returns a whole chunk: its uncompressed bytes, and the compressed ones if they are known. It is called in a
worker thread, and may raise."""


class _Job(NamedTuple):
    """A chunk to be made. path: of the entry it begins with; content: its bytes, or what returns them."""

    path: bytes
    content: list[bytes | memoryview] | Fetch


class _Made(NamedTuple):
    """What is known of a compressed chunk."""

    path: bytes
    raw_length: int
    length: int
    reused: bool


class _Batch(NamedTuple):
    """Chunks in a row, their bytes joined before and after compression."""

    raw: bytes
    packed: bytes
    chunks: list[_Made]


class ChunkWriter:
    """Write a compressed stream to `out`, a descriptor, from its present offset on.

    Few chunks are in memory at a time. Use it as a context manager: an exception stops the threads.
    workers: threads that compress, by default as many as there are processors; 0: there is no thread at all,
    for a process that has one processor to itself. told: called after every piece that was written.
    Raises EmitError, naming `what`, for whatever fails here or in a thread.
    """

    def __init__(
        self,
        out: int,
        codec: Codec,
        *,
        what: str = "the stream",
        workers: int | None = None,
        told: Callable[[], None] | None = None,
    ) -> None:
        self._out = out
        self._codec = codec
        self._what = what
        self._boundaries = ChunkBoundaries(codec)
        # The chunk that is being filled.
        self._pieces: list[bytes | memoryview] = []
        self._size = 0
        self._limit = self._boundaries.limit
        self._large = False
        self._path = b""
        self._first_path = b""
        # Those that are complete.
        self._batch: list[_Job] = []
        self._batch_size = 0
        self._begun = False
        self._chunks: list[Chunk] = []
        self._raw_hash = hashlib.sha256()
        self._hash = hashlib.sha256()
        self._error: BaseException | None = None
        self._told = told
        self._inline = workers == 0
        if self._inline:
            return
        count = min(workers or cores(), max(1, _MEMORY // max(codec.memory, 1)))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="compress")
        largest = max(_BATCH, self._boundaries.most)
        self._queue: queue.Queue[Future[_Batch] | None] = queue.Queue(count + 1 + _BACKLOG // largest)
        self._writer = threading.Thread(target=self._write_batches, name="write", daemon=True)
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(error or EmitError(f"{self._what} was not closed"))

    # -- the caller's side

    def boundary(self, path: bytes, size: int, header: int = 512) -> None:
        """Announce an entry: `header` bytes and then `size` bytes of content will be written, and padding."""
        total = header + size
        if total > self._boundaries.most:
            self._large = True
            self._cut()
            self._limit = header + self._boundaries.most
        elif self._large or self._boundaries.before(path, total, self._size):
            self._large = False
            self._cut()
        self._path = path
        if not self._size:
            self._first_path = path

    def write(self, data: bytes | memoryview) -> None:
        """Add the next bytes of the stream; they must not change afterwards."""
        size = self._size + len(data)
        if size < self._limit:
            self._pieces.append(data)
            self._size = size
            return
        view = memoryview(data)
        while self._size + len(view) >= self._limit:
            take = self._limit - self._size
            self._pieces.append(view[:take])
            self._size += take
            view = view[take:]
            self._cut()
            self._first_path = self._path
        if view:
            self._pieces.append(view)
            self._size += len(view)

    def begin(self, path: bytes) -> None:
        """Begin a chunk with the entry `path`, whatever `boundary` would decide."""
        self._large = False
        self._cut()
        self._path = self._first_path = path

    def take(self, path: bytes, size: int, fetch: Fetch) -> None:
        """Add a whole chunk: the entry it begins with, about its uncompressed length, and what returns it."""
        self.begin(path)
        self._add(_Job(path, fetch), size)

    def close(self) -> Stream:
        """Write the rest. The stream is complete when this returns, though not yet on the disk."""
        self._cut()
        # An empty input still needs one member to be a valid stream.
        if self._batch or not self._begun:
            self._submit(self._batch or [_Job(b"", [])])
        if not self._inline:
            self._queue.put(None)
            self._writer.join()
            self._pool.shutdown()
        self._check()
        last = self._chunks[-1]
        return Stream(
            raw_sha256=self._raw_hash.hexdigest(),
            raw_size=last.raw_offset + last.raw_length,
            sha256=(self._raw_hash if self._codec.name == "none" else self._hash).hexdigest(),
            size=last.offset + last.length,
            chunks=tuple(self._chunks),
        )

    def _cut(self) -> None:
        self._limit = self._boundaries.most if self._large else self._boundaries.limit
        self._check()
        if self._size:
            pieces, size = self._pieces, self._size
            self._pieces, self._size = [], 0
            self._add(_Job(self._first_path, pieces), size)

    def _add(self, job: _Job, size: int) -> None:
        self._batch.append(job)
        self._batch_size += size
        if self._batch_size >= _BATCH:
            batch = self._batch
            self._batch, self._batch_size = [], 0
            self._submit(batch)

    def _submit(self, batch: list[_Job]) -> None:
        self._begun = True
        if self._inline:
            try:
                self._append(self._compress(batch))
            except Exception as error:  # noqa: BLE001  (told as that of a thread is)
                self._error = error
            self._check()
            return
        try:
            future = self._pool.submit(self._compress, batch)
        except RuntimeError as error:
            raise EmitError(f"{self._what} is closed") from error
        # Blocks while the threads are behind; the writer takes from the queue even after a failure.
        self._queue.put(future)

    def _check(self) -> None:
        error = self._error
        if error is None:
            return
        if isinstance(error, EmitError):
            raise error
        reason = error.strerror if isinstance(error, OSError) else f"{error}" or repr(error)
        raise EmitError(f"cannot write {self._what}: {reason}") from error

    def _stop(self, error: BaseException) -> None:
        if self._inline:
            return
        if not self._writer.is_alive():
            self._pool.shutdown()
            return
        self._error = self._error or error
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._queue.put(None)
        self._writer.join()
        self._pool.shutdown()

    # -- in threads

    def _compress(self, batch: list[_Job]) -> _Batch:
        raws, packs, made = [], [], []
        for path, content in batch:
            packed = None
            if callable(content):
                raw, packed = content()
            else:
                raw = b"".join(content)
                content.clear()
            reused = packed is not None
            if packed is None:
                packed = self._codec.compress(raw)
            raws.append(raw)
            packs.append(packed)
            made.append(_Made(path, len(raw), len(packed), reused))
        # Joined here: the writer has few, large pieces to hash and write, and seldom waits for its turn.
        return _Batch(b"".join(raws), b"".join(packs), made)

    def _write_batches(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                item.cancel()
                continue
            try:
                self._append(item.result())
            except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
                self._error = error
            del item  # else this batch's bytes live until the next one comes

    def _append(self, batch: _Batch) -> None:
        self._raw_hash.update(batch.raw)
        if self._codec.name != "none":
            self._hash.update(batch.packed)
        write_all(self._out, batch.packed)
        last = self._chunks[-1] if self._chunks else Chunk(b"", 0, 0, 0, 0, reused=False)
        for made in batch.chunks:
            raw_offset, offset = last.raw_offset + last.raw_length, last.offset + last.length
            last = Chunk(made.path, raw_offset, made.raw_length, offset, made.length, made.reused)
            self._chunks.append(last)
        if self._told is not None:
            self._told()
