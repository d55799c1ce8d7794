"""gzip members by libdeflate, in which what does not compress is stored, not compressed in vain.

Much of what is large in an image is compressed already, in whole or in part: archives, pictures, disks of
machines. To find that out by compressing takes libdeflate longer than to compress text; zstd, whose bytes are
thrown away here, tells it of a sample twenty times as fast. Without zstandard three samples tell of a chunk.
"""

from __future__ import annotations

import importlib
import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise, repeat
from typing import Any, NamedTuple, cast

Squeeze = Callable[[bytes | memoryview], bytes]

_LEVEL = 1
_LEAST = 2
"""Grains of the fine survey in a row that are worth a member of their own, which begins without a history."""


class _Survey(NamedTuple):
    """How samples are taken. grain: there is one for so many bytes; sample: its bytes; level: of zstd."""

    grain: int
    sample: int
    level: int


_COARSE, _FINE = _Survey(16 << 10, 512, -1), _Survey(4 << 10, 1024, 1)
"""The first is of all of a content and takes little, but one sample of machine code in twenty for dense; the
second is of what lies around the samples that the first found dense."""

_SEGMENT = struct.Struct("=QQ")
_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""RFC 1952: no name, no time, no system. libdeflate's members say in their ninth byte that they are of the
fastest level, ours do not: by that a stored member is found behind a compressed one."""


def with_libdeflate(library: Any) -> tuple[str, Squeeze, Callable[[bytes], bytes]]:
    """Return what a codec needs: its ident, and what packs and unpacks. library: the module `deflate`."""

    def squeeze(part: bytes | memoryview) -> bytes:
        return bytes(library.gzip_compress(part, _LEVEL))

    def store(part: bytes | memoryview) -> bytes:
        return _stored(part, library.crc32(part))

    def pack(part: bytes | memoryview) -> bytes:
        runs = find_runs(part)
        if len(runs) == 1:
            return store(part) if runs[0][2] else squeeze(part)
        view = memoryview(part)
        return b"".join([(store if dense else squeeze)(view[begin:end]) for begin, end, dense in runs])

    def unpack(data: bytes) -> bytes:
        try:
            return b"".join(bytes(library.gzip_decompress(member)) for member in _members(data))
        except library.DeflateError:
            return _unpack_any(data)

    try:
        find_runs, judge = _by_zstd()
    except (ImportError, AttributeError):  # its other back-end has no such call
        find_runs, judge = _by(squeeze), "by itself"
    ident = f"libdeflate of deflate {library.__version__} level {_LEVEL} or stored in runs, judged {judge}"
    return ident, pack, unpack


Run = tuple[int, int, bool]
"""Begin and end of a part of a content, and whether it is dense: compressing it would gain nothing."""


def _by(squeeze: Squeeze) -> Callable[[bytes | memoryview], list[Run]]:
    sample = 8 << 10

    def find_runs(part: bytes | memoryview) -> list[Run]:
        middle = len(part) // 2
        samples = (part[:sample], part[middle : middle + sample], part[-sample:])
        dense = len(part) >= 8 * sample and all(len(squeeze(one)) > sample * 0.98 for one in samples)
        return [(0, len(part), dense)]

    return find_runs


def _by_zstd() -> tuple[Callable[[bytes | memoryview], list[Run]], str]:
    zstandard = cast(Any, importlib.import_module("zstandard"))
    segments = zstandard.BufferWithSegments
    version = ".".join(map(str, zstandard.ZSTD_VERSION))

    def judge(part: bytes | memoryview, places: Sequence[int], how: _Survey) -> bytes:
        """Return a byte for each sample: 1 if it does not become smaller."""
        if not places:
            return b""
        # One compressor per call: they cannot be shared by threads, and making one costs little.
        packer = zstandard.ZstdCompressor(level=how.level, write_checksum=False, write_content_size=False)
        table = b"".join(map(_SEGMENT.pack, places, repeat(how.sample)))
        sizes = map(len, packer.multi_compress_to_buffer(segments(part, table), threads=0))
        return bytes(map(how.sample.__le__, sizes))

    def find_runs(part: bytes | memoryview) -> list[Run]:
        size = len(part)
        coarse = judge(part, range(0, size - _COARSE.sample + 1, _COARSE.grain), _COARSE)
        if 1 not in coarse:
            return [(0, size, False)]
        # A run begins and ends somewhere between a sample that compresses and one that does not.
        places: list[int] = []
        for at, dense in enumerate(coarse):
            if dense or coarse[at + 1 : at + 2] == b"\1":
                end = min((at + 1) * _COARSE.grain, size - _FINE.sample + 1)
                places += range(at * _COARSE.grain, end, _FINE.grain)
        marks = bytearray(-(-size // _FINE.grain))
        for place, dense in zip(places, judge(part, places, _FINE), strict=True):
            if dense:
                marks[place // _FINE.grain] = 1
        return _runs(bytes(marks), size)

    return find_runs, f"by zstd {version} zstandard {zstandard.__version__}"


def _runs(marks: bytes, size: int) -> list[Run]:
    """Return the runs of a content of this size. marks: of each grain whether it is dense."""
    cuts = [0]
    begin = marks.find(b"\1" * _LEAST)
    while begin >= 0:
        end = marks.find(b"\0", begin)
        end = len(marks) if end < 0 else end
        cuts += [begin * _FINE.grain, min(end * _FINE.grain, size)]
        begin = marks.find(b"\1" * _LEAST, end)
    cuts.append(size)
    found = [(begin, end, bool(number % 2)) for number, (begin, end) in enumerate(pairwise(cuts))]
    return [run for run in found if run[0] < run[1]]


def _stored(part: bytes | memoryview, crc: int) -> bytes:
    """Return a gzip member (RFC 1952) whose data is stored as it is (RFC 1951, block type 0)."""
    view = memoryview(part)
    pieces: list[bytes | memoryview] = [_HEAD]
    for at in range(0, len(part), 0xFFFF):
        block = view[at : at + 0xFFFF]
        last = at + 0xFFFF >= len(part)
        pieces.append(_block_head(len(block), last=last))
        pieces.append(block)
    pieces.append(struct.pack("<II", crc, len(part) & 0xFFFFFFFF))
    return b"".join(pieces)


def _block_head(size: int, *, last: bool) -> bytes:
    return struct.pack("<BHH", last, size, 0xFFFF ^ size)


def _members(data: bytes) -> list[bytes | memoryview]:
    """Return the members of a chunk that was packed here; what unpacks them finds out if they were not right.

    They are not where the chunk is damaged, and where a compressed member has the head of one of ours in it,
    which takes a content that was packed here before.
    """
    if _HEAD not in data:
        return [data]
    view = memoryview(data)
    found: list[bytes | memoryview] = []
    at = 0
    while at < len(data):
        end = _end_of_stored(data, at) if data.startswith(_HEAD, at) else data.find(_HEAD, at)
        end = len(data) if end < 0 else end
        found.append(view[at:end])
        at = end
    return found


def _end_of_stored(data: bytes, at: int) -> int:
    """Return where the stored member ends that begins at `at`; -1 where it does not say so."""
    at += len(_HEAD)
    while at + 5 <= len(data):
        last, size, check = struct.unpack_from("<BHH", data, at)
        if last > 1 or size != 0xFFFF ^ check:
            break
        at += 5 + size
        if last:
            return at + 8
    return -1


def _unpack_any(data: bytes) -> bytes:
    """Return the content of any members. Raises zlib.error, ValueError for what is damaged."""
    found = []
    while data:
        reader = zlib.decompressobj(wbits=31)
        found.append(reader.decompress(data))
        if not reader.eof:
            raise ValueError("a gzip member is cut off")
        data = reader.unused_data
    return b"".join(found)
