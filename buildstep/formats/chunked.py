"""Write a compressed stream in independent chunks, on all cores.

A chunk is a member or frame that stands alone (RFC 1952 and RFC 8878: a file is a series of them). Chunks
begin at entries that their paths choose, so that nearly the same tree gives nearly the same chunks. A large
entry has chunks of its own: cut at fixed offsets, or, in a stream that shares them with others, where its
content says so (`formats.content_cut`); these are its pieces.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from buildstep.errors import EmitError
from buildstep.formats import content_cut
from buildstep.formats.chunk_boundaries import ChunkBoundaries
from buildstep.formats.codecs import Codec, check_of
from buildstep.formats.content_cut import Cutter
from buildstep.system.files import write_all
from buildstep.system.workers import cores
from buildstep.tree.hashing import ContentHash

_MEMORY = 192 << 20
"""Bytes that all compressors of one stream may take for themselves, besides the chunks."""
_BATCH = 1 << 20
"""Bytes that a thread is given at a time: small chunks go together."""
_BACKLOG = 8 << 20
"""Bytes that may wait to be compressed or written, besides those in work."""
_TINY = 8 << 10
"""Bytes that a piece may have, compressed, to be remembered: one that is of zeros comes often."""
_REPEATED = 64
"""Pieces that are remembered."""
_BLOCK = 512
"""What an entry's content is padded to."""
_LARGE = 1 << 30


@dataclass(frozen=True, slots=True)
class Chunk:
    """One independent member of a stream. path: of the entry that it begins with, or inside of.

    Offsets and lengths are in bytes, raw ones before compression. reused: it was not compressed now. Of a
    piece only: name, see `content_cut.naming`, and check, the CRC-32 of its compressed bytes.
    """

    path: bytes
    raw_offset: int
    raw_length: int
    offset: int
    length: int
    reused: bool
    name: bytes = b""
    check: int = 0


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


class Pieces(Protocol):
    """Pieces of large entries that earlier streams have."""

    def find(self, name: bytes, length: int) -> bytes | None:
        """Return the compressed bytes of the piece of this name and length; None if there is none, or it is
        damaged. It is called in worker threads."""


class _Job(NamedTuple):
    """A chunk to be made. path: of the entry it begins with; content: its bytes, or what returns them, or a
    piece of a large entry."""

    path: bytes
    content: list[bytes | memoryview] | Fetch | memoryview


class _Made(NamedTuple):
    """What is known of a compressed chunk."""

    path: bytes
    raw_length: int
    length: int
    reused: bool
    name: bytes = b""
    check: int = 0


class _Batch(NamedTuple):
    """Chunks in a row, their bytes joined before and after compression."""

    raw: bytes | memoryview
    packed: bytes
    chunks: list[_Made]


class ChunkWriter:
    """Write a compressed stream to `out`, a descriptor, from its present offset on.

    Few chunks are in memory at a time. Use it as a context manager: an exception stops the threads.
    workers: threads that compress, by default as many as there are processors; 0: there is no thread at all,
    for a process that has one processor to itself. told: called after every chunk or row of chunks that was
    written. pieces: those of other streams; where it is given, large entries are cut by their content.
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
        pieces: Pieces | None = None,
    ) -> None:
        self._out = out
        self._codec = codec
        self._what = what
        self._boundaries = ChunkBoundaries(codec)
        self._known = pieces
        # The large entry that is being cut by its content, and what of its header and of the rest is to come.
        self._cutter: Cutter | None = None
        self._header = 0
        self._content = 0
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
        # Beside hashing and writing what was compressed: each of these can take as long as all compressors.
        self._raw_hash = ContentHash(0 if workers == 0 else _LARGE)
        self._repeated: dict[bytes, bytes] = {}
        self._hash = hashlib.sha256()
        self._error: BaseException | None = None
        self._told = told
        self._inline = workers == 0
        if self._inline:
            return
        count = min(workers or cores(), max(1, _MEMORY // max(codec.memory, 1)))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="compress")
        largest = max(_BATCH, self._boundaries.pieces.most)
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
            if self._known is None:
                self._limit = header + self._boundaries.most
            else:
                self._cutter = Cutter(self._boundaries.pieces)
                self._header, self._content = header, size + -size % _BLOCK
        elif self._large or self._boundaries.before(path, total, self._size):
            self._large = False
            self._cut()
        self._path = path
        if not self._size:
            self._first_path = path

    def write(self, data: bytes | memoryview) -> None:
        """Add the next bytes of the stream; they must not change afterwards."""
        if self._cutter is not None:
            self._write_large(self._cutter, data)
            return
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

    def _write_large(self, cutter: Cutter, data: bytes | memoryview) -> None:
        """Add bytes of a large entry: the header is a chunk, padding is in its last piece."""
        if self._header:
            self._header -= len(data)
            assert self._header >= 0, "the header does not come by itself"
            self._pieces.append(data)
            self._size += len(data)
            if not self._header:
                self._cut()
            return
        self._content -= len(data)
        assert self._content >= 0, "more is written of an entry than was announced"
        self._submit_pieces(cutter.feed(data))
        if not self._content:
            self._submit_pieces(cutter.rest())
            self._cutter, self._first_path = None, self._path

    def _submit_pieces(self, pieces: Iterable[memoryview]) -> None:
        for piece in pieces:
            self._check()
            self._flush()
            self._submit([_Job(self._path, piece)])

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
        last, raw_sha256 = self._chunks[-1], self._raw_hash.finish()
        return Stream(
            raw_sha256=raw_sha256,
            raw_size=last.raw_offset + last.raw_length,
            sha256=raw_sha256 if self._codec.name == "none" else self._hash.hexdigest(),
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
            self._flush()

    def _flush(self) -> None:
        batch = self._batch
        self._batch, self._batch_size = [], 0
        if batch:
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
        self._raw_hash.cancel()
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
            if isinstance(content, memoryview):
                return self._compress_piece(path, content)  # it is a batch of its own
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

    def _compress_piece(self, path: bytes, raw: memoryview) -> _Batch:
        assert self._known is not None
        name = content_cut.naming()[1](raw)
        packed = self._known.find(name, len(raw)) or self._repeated.get(name)
        reused = packed is not None
        if packed is None:
            packed = self._codec.compress(raw)
            if len(packed) <= _TINY and len(self._repeated) < _REPEATED:
                self._repeated[name] = packed
        made = _Made(path, len(raw), len(packed), reused, name, check_of(packed))
        return _Batch(raw, packed, [made])

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
            last = Chunk(made.path, raw_offset, made.raw_length, offset, *made[2:])
            self._chunks.append(last)
        if self._told is not None:
            self._told()
