"""Codecs: each compresses bytes to a member or frame that stands alone, and expands it again."""

from __future__ import annotations

import bz2
import functools
import importlib
import lzma
import platform
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from buildstep.errors import ToolMissing, UsageError
from buildstep.formats import gzip_runs

Compression = Literal["gzip", "bzip2", "xz", "zstd", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Codec:
    """A compression.

    name: as -c and imgmanifest call it; media_suffix: of an OCI layer's media type, None where OCI has none;
    extension: of a file; ident: library, version and level, for records and cache keys, since another version
    may give other bytes; memory: bytes that one compressor takes; grain: bytes that are worth a member of
    their own.
    """

    name: Compression
    media_suffix: str | None
    extension: str
    ident: str
    memory: int
    grain: int
    compress: Callable[[bytes | memoryview], bytes]
    """Returns one independent member or frame that holds all of its argument, without name or time."""
    expand: Callable[[bytes], bytes]
    """Returns the content of one such member. Raises whatever its library raises for anything else."""


def _gzip() -> Codec:
    # libdeflate gives the same bytes for the same content on every processor and at every time. isal, which
    # is faster, does not: it reads a hash table that it has not cleared, so that about one chunk in four
    # thousand came out otherwise than before, and its code for each kind of processor makes other choices.
    try:
        library = cast(Any, importlib.import_module("deflate"))
    except ImportError:
        # wbits 31: a gzip member; zlib writes no name and the time 0 into its header.
        ident = f"zlib {zlib.ZLIB_RUNTIME_VERSION} level 6"
        pack: gzip_runs.Squeeze = lambda part: zlib.compress(part, 6, wbits=31)  # noqa: E731
        unpack: Callable[[bytes], bytes] = lambda data: zlib.decompress(data, wbits=31)  # noqa: E731
    else:
        ident, pack, unpack = gzip_runs.with_libdeflate(library)

    return Codec(
        name="gzip",
        media_suffix="+gzip",
        extension=".gz",
        ident=ident,
        memory=1 << 20,
        # Smaller members are no larger in sum (measured down to 64 KiB), and stay in the processor's cache.
        grain=64 << 10,
        compress=pack,
        expand=unpack,
    )


def _zstd() -> Codec:
    try:
        zstandard = cast(Any, importlib.import_module("zstandard"))
    except ImportError as error:
        raise ToolMissing(
            "zstd compression needs the Python package zstandard",
            hint="pip install buildstep[fast]",
        ) from error

    def pack(part: bytes | memoryview) -> bytes:
        # One compressor per call: they cannot be shared by threads, and making one costs little.
        return bytes(zstandard.ZstdCompressor(level=3, write_checksum=True).compress(part))

    library = ".".join(map(str, zstandard.ZSTD_VERSION))
    return Codec(
        name="zstd",
        media_suffix="+zstd",
        extension=".zst",
        ident=f"zstd {library} zstandard {zstandard.__version__} level 3",
        memory=6 << 20,
        grain=512 << 10,
        compress=pack,
        expand=lambda data: bytes(zstandard.ZstdDecompressor().decompress(data)),
    )


def _xz() -> Codec:
    return Codec(
        name="xz",
        media_suffix=None,
        extension=".xz",
        # The standard library does not say which liblzma it has; Python's version is the nearest.
        ident=f"lzma python {platform.python_version()} preset 6",
        memory=94 << 20,
        grain=1 << 20,
        compress=lambda part: lzma.compress(part, preset=6),
        expand=lzma.decompress,
    )


def _bzip2() -> Codec:
    return Codec(
        name="bzip2",
        media_suffix=None,
        extension=".bz2",
        ident=f"bz2 python {platform.python_version()} level 9",
        memory=8 << 20,
        grain=1 << 20,
        compress=bz2.compress,
        expand=bz2.decompress,
    )


def _none() -> Codec:
    return Codec(
        name="none",
        media_suffix="",
        extension="",
        ident="none",
        memory=0,
        grain=128 << 10,
        compress=bytes,
        expand=lambda part: part,
    )


CODECS: dict[str, Callable[[], Codec]] = {
    "gzip": _gzip,
    "zstd": _zstd,
    "xz": _xz,
    "bzip2": _bzip2,
    "none": _none,
}


def codec(name: str) -> Codec:
    """Return a codec by name. Raises UsageError for an unknown one, ToolMissing without its library."""
    if name not in CODECS:
        raise UsageError(f"no compression is called {name!r}", hint="one of " + ", ".join(CODECS))
    return CODECS[name]()


@functools.cache
def _crc32() -> Callable[[bytes | memoryview], int]:
    try:
        return cast(Callable[[bytes | memoryview], int], cast(Any, importlib.import_module("deflate")).crc32)
    except ImportError:
        return zlib.crc32


def check_of(data: bytes | memoryview) -> int:
    """Return the CRC-32 of bytes (RFC 1952), by which damage is found that is nobody's intent."""
    return _crc32()(data)


def fast_zstd() -> Callable[[bytes], bytes]:
    """Return a function that packs bytes to a zstd frame at the level where speed counts more than size: on
    small files half as fast again as level 3, for one to six percent more bytes (measured). One thread may
    call it. Raises ToolMissing."""
    codec("zstd")  # says what to install
    zstandard = cast(Any, importlib.import_module("zstandard"))
    compress = zstandard.ZstdCompressor(level=1, write_checksum=True).compress
    return lambda data: bytes(compress(data))


def expand_zstd(data: bytes, limit: int) -> bytes:
    """Return the content of one zstd frame that says its length. limit: the most bytes that it may have.

    Raises ValueError for anything else, before a byte of it is expanded: a few bytes can stand for gigabytes.
    """
    zstandard = cast(Any, importlib.import_module("zstandard"))
    try:
        length = zstandard.get_frame_parameters(data).content_size
        if length == zstandard.CONTENTSIZE_UNKNOWN or length > limit:
            raise ValueError(f"a zstd frame of {length} bytes, and {limit} are allowed")
        # A frame without content says so, and an unknown length is 0 for this library's decompressor.
        return bytes(zstandard.ZstdDecompressor().decompress(data)) if length else b""
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
