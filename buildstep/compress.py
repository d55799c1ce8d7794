"""Codecs, and a writer that compresses a stream in independent parts on all cores."""

from __future__ import annotations

import bz2
import errno
import hashlib
import importlib
import lzma
import os
import platform
import queue
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, cast

from buildstep.errors import EmitError, ToolMissing, UsageError
from buildstep.fsutil import write_all

Compression = Literal["gzip", "bzip2", "xz", "zstd", "none"]

PART_MIN = 1 << 20
PART_MAX = 8 << 20
_SLACK = 512
"""How much longer a part of small entries may get by the last one's padding."""
_MEMORY = 192 << 20
"""Bytes that all compressors of one stream may take for themselves, besides the parts."""

_SPREAD = (1 << 32) / (2 << 20)
"""A boundary is taken with a chance of one in two MiB of content, decided by its path alone."""


# -- codecs -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Codec:
    """A compression. name: as -c and imgmanifest call it; media_suffix: for an OCI layer's media type,
    None where OCI has none; extension: of a file; ident: library, version and level, for records and
    cache keys, since another version may give other bytes; memory: bytes that one compressor takes.
    """

    name: Compression
    media_suffix: str | None
    extension: str
    ident: str
    memory: int
    compress: Callable[[bytes], bytes]
    """One independent member or frame that holds all of its argument, without name or time."""


def _gzip() -> Codec:
    try:
        library = cast(Any, importlib.import_module("isal.igzip_lib"))
        version = importlib.import_module("isal").__version__
    except ImportError:
        # wbits 31: a gzip member; zlib writes no name and the time 0 into its header.
        ident = f"zlib {zlib.ZLIB_RUNTIME_VERSION} level 6"
        pack: Callable[[bytes], bytes] = lambda part: zlib.compress(part, 6, wbits=31)  # noqa: E731
    else:
        # Level 2 is smaller than 1 and no slower (measured on text and on programs).
        ident = f"isal {version} level 2 or stored"
        checksum = cast(Any, importlib.import_module("isal.isal_zlib")).crc32

        def squeeze(part: bytes) -> bytes:
            return bytes(library.compress(part, 2, flag=library.COMP_GZIP))

        def pack(part: bytes) -> bytes:
            return _stored(part, checksum(part)) if _is_dense(part, squeeze) else squeeze(part)

    return Codec(
        name="gzip",
        media_suffix="+gzip",
        extension=".gz",
        ident=ident,
        memory=1 << 20,
        compress=pack,
    )


_SAMPLE = 32 << 10


def _is_dense(part: bytes, squeeze: Callable[[bytes], bytes]) -> bool:
    """Whether compressing gains next to nothing: told by three samples, so the same for the same bytes.

    Pictures, archives and keys are most of what is large in an image; trying to shrink them again costs
    ten times what storing them does.
    """
    if len(part) < 8 * _SAMPLE:
        return False
    middle = len(part) // 2
    samples = (part[:_SAMPLE], part[middle : middle + _SAMPLE], part[-_SAMPLE:])
    return all(len(squeeze(sample)) > _SAMPLE * 0.98 for sample in samples)


def _stored(part: bytes, crc: int) -> bytes:
    """A gzip member (RFC 1952) whose data is stored as it is (RFC 1951, block type 0)."""
    view = memoryview(part)
    pieces: list[bytes | memoryview] = [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"]
    for at in range(0, len(part), 0xFFFF):
        block = view[at : at + 0xFFFF]
        last = at + 0xFFFF >= len(part)
        pieces.append(struct.pack("<BHH", last, len(block), 0xFFFF ^ len(block)))
        pieces.append(block)
    pieces.append(struct.pack("<II", crc, len(part) & 0xFFFFFFFF))
    return b"".join(pieces)


def _zstd() -> Codec:
    try:
        zstandard = cast(Any, importlib.import_module("zstandard"))
    except ImportError as error:
        raise ToolMissing(
            "zstd compression needs the Python package zstandard",
            hint="pip install buildstep[fast]",
        ) from error

    def pack(part: bytes) -> bytes:
        # One compressor per call: they cannot be shared by threads, and making one costs little.
        return bytes(zstandard.ZstdCompressor(level=3, write_checksum=True).compress(part))

    library = ".".join(map(str, zstandard.ZSTD_VERSION))
    return Codec(
        name="zstd",
        media_suffix="+zstd",
        extension=".zst",
        ident=f"zstd {library} zstandard {zstandard.__version__} level 3",
        memory=6 << 20,
        compress=pack,
    )


def _xz() -> Codec:
    return Codec(
        name="xz",
        media_suffix=None,
        extension=".xz",
        # The standard library does not tell its liblzma's version; Python's stands for the bundle.
        ident=f"lzma python {platform.python_version()} preset 6",
        memory=94 << 20,
        compress=lambda part: lzma.compress(part, preset=6),
    )


def _bzip2() -> Codec:
    return Codec(
        name="bzip2",
        media_suffix=None,
        extension=".bz2",
        ident=f"bz2 python {platform.python_version()} level 9",
        memory=8 << 20,
        compress=bz2.compress,
    )


def _none() -> Codec:
    return Codec(
        name="none", media_suffix="", extension="", ident="none", memory=0, compress=lambda part: part
    )


CODECS: dict[str, Callable[[], Codec]] = {
    "gzip": _gzip,
    "zstd": _zstd,
    "xz": _xz,
    "bzip2": _bzip2,
    "none": _none,
}


def codec(name: str) -> Codec:
    """The codec of this name. Raises UsageError for an unknown one, ToolMissing without its library."""
    if name not in CODECS:
        raise UsageError(f"no compression is called {name!r}", hint="one of " + ", ".join(CODECS))
    return CODECS[name]()


# -- parts --------------------------------------------------------------------------------------------


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


Reuse = Callable[[bytes, bytes], bytes | None]
"""Given a part's path and its uncompressed bytes: its compressed form from an earlier time, or None.

Called in worker threads. What it returns must be what the codec would give.
"""


class PartWriter:
    """Writes a compressed stream to `out`, a descriptor, from its present offset on.

    The stream is cut where entries begin, at places that depend on the entries' paths and not on what
    came before, so that another build of nearly the same tree has nearly the same parts. A file over
    PART_MAX gets parts of its own, cut at multiples of PART_MAX of its content. At most workers + 3
    parts are in memory. Use it as a context manager: leaving by an exception stops the threads.

    Raises EmitError, naming `what`, for whatever fails here or in a thread.
    """

    def __init__(
        self,
        out: int,
        codec: Codec,
        *,
        what: str = "the stream",
        workers: int | None = None,
        reuse: Reuse | None = None,
    ) -> None:
        self._out = out
        self._codec = codec
        self._what = what
        self._reuse = reuse
        self._chunks: list[bytes | memoryview] = []
        self._size = 0
        self._limit = PART_MAX + _SLACK
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
            count + 1
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
        have = self._size
        if total > PART_MAX:
            self._large = True
            self._cut()
            self._limit = header + PART_MAX
        elif (
            self._large
            or have + total > PART_MAX
            or (have >= PART_MIN and zlib.crc32(path) < total * _SPREAD)
        ):
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
        self._limit = PART_MAX if self._large else PART_MAX + _SLACK
        self._check()
        if not self._size:
            return
        chunks, path = self._chunks, self._first_path
        self._chunks, self._size = [], 0
        try:
            future = self._pool.submit(self._pack, path, chunks)
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

    def _pack(self, path: bytes, chunks: list[bytes | memoryview]) -> tuple[bytes, bytes, bool]:
        raw = b"".join(chunks)
        chunks.clear()
        if self._reuse is not None:
            known = self._reuse(path, raw)
            if known is not None:
                return raw, known, True
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
