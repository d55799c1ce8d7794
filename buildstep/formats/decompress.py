"""Read a compressed file as a forward-only stream; its first bytes say how it is compressed."""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Any, Protocol, Self, cast

from buildstep.errors import BuildstepError, ImageError, ToolMissing
from buildstep.system.files import CHUNK, is_zeros

_INPUT = 256 << 10
_AHEAD = 8
"""Chunks that may wait to be read."""
_XZ_MEMORY = 256 << 20
_ZSTD_WINDOW = 128 << 20
"""Memory (bytes) that a stream's header may ask for; zstd's own default limit, `--long=27`."""


MAGIC_SIZE = 6
"""Bytes by which a compression is told."""


def compression_of(head: bytes) -> str:
    """Return how a stream is compressed by its first bytes: gzip, xz, bzip2, zstd; empty for not at all."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if head.startswith(b"BZh"):
        return "bzip2"
    # A frame, or a skippable frame as pzstd and others put in front.
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return "zstd"
    return ""


class Decompressed:
    """The content of `stream`, compressed with gzip, xz, zstd, bzip2 or not at all; a thread expands it.

    ahead: false for who has no use for a thread, such as one of several processes that keep all cores busy.

    ratio: how many times larger than its compressed form the content may be once it is larger than `floor`
    bytes, long runs of zeros apart, which become holes; 0 for no limit. Reads raise ImageError for damage and
    for what exceeds the limit. Use it as a context manager; the caller closes `stream`. One that may block
    for long can have a method `interrupt` that ends its `read` in another thread. piece: bytes that are
    expanded at a time, several of them ahead; few for who wants only the beginning.
    """

    def __init__(
        self,
        stream: IO[bytes],
        *,
        ratio: int = 0,
        floor: int = 1 << 30,
        piece: int = CHUNK,
        ahead: bool = True,
    ) -> None:
        self._stream = stream
        self._piece = piece
        self._ratio = ratio
        self._floor = floor
        self._taken = 0
        self._given = 0
        self._position = 0
        self._chunk = memoryview(b"")
        self._ended = False
        self._pieces: Iterator[bytes] | None = None
        if not ahead:
            self._pieces = self._expanded()
            return
        self._stop = threading.Event()
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._produce, name="decompress", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pieces is not None:
            return
        self._stop.set()
        if error is not None and not isinstance(error, ImageError):
            # After another error, such as a signal, nobody waits for data that may never come.
            interrupt = getattr(self._stream, "interrupt", None)
            if interrupt is not None:
                interrupt()
        while self._thread.is_alive():
            # The thread may be waiting for room.
            while not self._queue.empty():
                self._queue.get_nowait()
            self._thread.join(0.01)

    # -- reading

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        """Skip forward. Raises ImageError for a way back, which only a damaged archive needs."""
        if position < self._position:
            raise ImageError("the archive is damaged: an entry ends before it begins")
        while self._position < position and (self._chunk or self._next()):
            skipped = min(len(self._chunk), position - self._position)
            self._chunk = self._chunk[skipped:]
            self._position += skipped
        return self._position

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer only at the end."""
        if count <= len(self._chunk):
            taken = bytes(self._chunk[:count])
            self._chunk = self._chunk[count:]
            self._position += len(taken)
            return taken
        pieces: list[bytes | memoryview] = []
        while count:
            if not self._chunk and not self._next():
                break
            piece = self._chunk[:count]
            self._chunk = self._chunk[count:]
            count -= len(piece)
            self._position += len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def drain(self) -> None:
        """Read to the end: only then are the stream's checksums checked."""
        while self.read(CHUNK):
            pass

    def _next(self) -> bool:
        if self._ended:
            return False
        item = self._queue.get() if self._pieces is None else self._expand()
        if isinstance(item, bytes):
            self._chunk = memoryview(item)
            return True
        self._ended = True
        if isinstance(item, BuildstepError):
            raise item
        if item is not None:
            raise ImageError(f"the archive cannot be read: {item}") from item
        return False

    def _expand(self) -> bytes | BaseException | None:
        """Return the next piece, as the thread puts it into the queue."""
        assert self._pieces is not None
        try:
            return next(self._pieces, None)
        except Exception as error:  # noqa: BLE001  (raised by the caller)
            return error

    # -- in the thread

    def _expanded(self) -> Iterator[bytes]:
        """Yield the content in pieces. Raises ImageError for what exceeds the limit."""
        for chunk in self._chunks():
            if not is_zeros(chunk):
                self._given += len(chunk)
            if self._ratio and self._given > max(self._floor, self._ratio * self._taken):
                raise ImageError(
                    f"the archive unpacks to more than {self._ratio} times its size",
                    hint="it looks like a decompression bomb; raise the limit if you trust it",
                )
            yield chunk

    def _produce(self) -> None:
        end: BaseException | None = None
        try:
            for chunk in self._expanded():
                if not self._put(chunk):
                    return
        except Exception as error:  # noqa: BLE001  (raised again in the reader's thread)
            end = error
        self._put(end)

    def _put(self, item: bytes | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _input(self, count: int = _INPUT) -> bytes:
        data = self._stream.read(count)
        self._taken += len(data)
        return data

    def _chunks(self) -> Iterator[bytes]:
        head = b""
        while len(head) < MAGIC_SIZE and (more := self._input(MAGIC_SIZE - len(head))):
            head += more
        source = _Joined(head, self._input)
        match compression_of(head):
            case "gzip":
                return _gzip(source, self._piece)
            case "xz":
                return _members(source, self._piece, lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY))
            case "bzip2":
                return _members(source, self._piece, bz2.BZ2Decompressor)
            case "zstd":
                return _zstd(source, self._piece)
        return iter(lambda: source.read(_INPUT), b"")


class _Joined:
    """A stream of the bytes that were looked at already, then the rest."""

    def __init__(self, head: bytes, rest: Callable[[int], bytes]) -> None:
        self._head = head
        self._rest = rest

    def read(self, count: int = _INPUT) -> bytes:
        if self._head:
            head, self._head = self._head[:count], self._head[count:]
            return head
        return self._rest(count)


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _members(source: _Joined, piece: int, make: Callable[[], _Decoder]) -> Iterator[bytes]:
    """Yield the content of one or more members, in bounded pieces whatever the ratio."""
    decoder = make()
    while True:
        data = b""
        if decoder.eof:
            data = decoder.unused_data.lstrip(b"\0")
            while not data:
                more = source.read(_INPUT)
                if not more:
                    return
                data = more.lstrip(b"\0")  # padding, as tapes and xz have it
            decoder = make()
        elif decoder.needs_input:
            data = source.read(_INPUT)
            if not data:
                raise EOFError("the compressed data ends too early")
        if chunk := decoder.decompress(data, piece):
            yield chunk


def _gzip(source: _Joined, piece: int) -> Iterator[bytes]:
    try:
        library = cast(Any, importlib.import_module("isal.igzip_lib"))
    except ImportError:
        file = gzip.GzipFile(fileobj=cast(IO[bytes], source), mode="rb")
        return iter(lambda: file.read(piece), b"")
    return _members(source, piece, lambda: library.IgzipDecompressor(flag=library.DECOMP_GZIP))


def _zstd(source: _Joined, piece: int) -> Iterator[bytes]:
    try:
        library = cast(Any, importlib.import_module("zstandard"))
    except ImportError as error:
        raise ToolMissing(
            "reading zstd needs the Python package zstandard",
            hint="pip install buildstep[fast]",
        ) from error
    decoder = library.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    # It does not notice a frame that was cut off; the end mark of the tar inside does.
    reader = decoder.stream_reader(source, read_size=_INPUT, read_across_frames=True)
    return iter(lambda: reader.read(piece), b"")
