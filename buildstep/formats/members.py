"""Where the members of a compressed file are: gzip members (RFC 1952), or zstd frames (RFC 8878)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PIECE = 64 << 10
_LARGEST = 64 << 20
"""Bytes of a member, packed or not, from which on a file is no row of small ones."""


class Member(NamedTuple):
    """A member that stands alone. raw: bytes of its content."""

    offset: int
    length: int
    raw: int


def compression_of(path: Path) -> str:
    """Return gzip or zstd, by the first bytes of a file; empty for anything else. Raises OSError."""
    with path.open("rb") as stream:
        head = stream.read(4)
    return "gzip" if head.startswith(_GZIP) else "zstd" if head == _ZSTD else ""


def members(path: Path) -> list[Member]:
    """Return the members of a file, which cover all of it; none where it is not made of such. Raises OSError.

    zstd frames say their lengths block by block; gzip members must be expanded.
    """
    kind = compression_of(path)
    if not kind:
        return []
    with path.open("rb") as stream:
        try:
            return list(_gzip(stream) if kind == "gzip" else _zstd(stream))
        except (ValueError, zlib.error, IndexError):
            return []


def _gzip(stream: IO[bytes]) -> Iterator[Member]:
    offset, data = 0, stream.read(_PIECE)
    while data:
        state, raw, length = zlib.decompressobj(31), 0, 0
        while not state.eof:
            if not data:
                raise ValueError("it ends inside of a member")
            raw += len(state.decompress(data))
            length += len(data) - len(state.unused_data)
            data = state.unused_data or stream.read(_PIECE)
            if max(raw, length) > _LARGEST:
                raise ValueError("a large member")
        yield Member(offset, length, raw)
        offset += length


def _zstd(stream: IO[bytes]) -> Iterator[Member]:
    at = 0
    while head := stream.read(18):
        begin, (size, raw) = at, _zstd_head(head)
        stream.seek(at := at + size)
        while True:
            word = int.from_bytes(stream.read(3), "little")
            last, kind, length = word & 1, word >> 1 & 3, word >> 3
            if kind == 3:
                raise ValueError("a reserved kind of block")
            at += 3 + (1 if kind == 1 else length)
            if at - begin > _LARGEST or not word:
                raise ValueError("a large frame, or none")
            stream.seek(at)
            if last:
                break
        at += 4 if head[4] & 4 else 0  # the checksum of the content
        stream.seek(at)
        yield Member(begin, at - begin, raw)
    if at != stream.seek(0, 2):
        raise ValueError("it ends inside of a frame")


def _zstd_head(head: bytes) -> tuple[int, int]:
    """Return the length of a frame's header, and of its content, which it must say (RFC 8878, 3.1.1.1)."""
    if not head.startswith(_ZSTD):
        raise ValueError("no frame")
    flags = head[4]
    single, size_flag, dictionary = flags >> 5 & 1, flags >> 6, (0, 1, 2, 4)[flags & 3]
    if dictionary or (size_flag == 0 and not single):
        raise ValueError("a frame that needs a dictionary, or does not say its length")
    begin = 5 + (0 if single else 1)
    width = (1, 2, 4, 8)[size_flag]
    raw = int.from_bytes(head[begin : begin + width], "little") + (256 if width == 2 else 0)
    if raw > _LARGEST:
        raise ValueError("a large frame")
    return begin + width, raw
