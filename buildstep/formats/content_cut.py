"""Cut content where it says so itself, so that a change in one place moves few cuts; and name the pieces.

The cut is that of FastCDC (Xia and others, "The Design of Fast Content-Defined Chunking", IEEE TPDS 2020), as
pyfastcdc makes it, with one level of normalisation. Without that library the same is computed here, at some
ten megabytes a second. A piece is named by BLAKE3, or without blake3 by SHA-256, which takes longer.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

_MASKS = {
    7: 0x18035100, 8: 0x1800035300, 9: 0x19000353000, 10: 0x590003530000, 11: 0xD90003530000,
    12: 0xD90103530000, 13: 0xD90303530000, 14: 0xD90313530000, 15: 0xD90F03530000, 16: 0xD90303537000,
    17: 0xD90703537000, 18: 0xD90707537000, 19: 0xD91707537000, 20: 0xD91747537000, 21: 0xD91767537000,
    22: 0xD93767537000, 23: 0xD93777537000,
}  # fmt: skip
"""The masks of the paper's authors, by the number of their bits: one position in 2 ** bits has a hash in
which none of these is set."""
_WINDOW = 4 << 20
"""Bytes that are looked at together; what no cut is certain in waits for more."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of pieces, in bytes; average: a power of two, before which a cut is half as likely as by chance, and
    after which twice as likely. A content may end with a smaller piece."""

    least: int
    average: int
    most: int


class Cutter:
    """Cuts one content that comes in parts of any sizes; how it comes does not matter."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._cuts = _finder(sizes)
        self._parts: list[bytes | memoryview] = []
        self._have = 0
        self._window = max(_WINDOW, 2 * sizes.most)

    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """Take the next part, which must not change afterwards, and yield the pieces that it completes."""
        self._parts.append(data)
        self._have += len(data)
        if self._have >= self._window:
            yield from self._cut(last=False)

    def rest(self) -> Iterator[memoryview]:
        """Yield the last pieces, at the end of the content."""
        if self._have:
            yield from self._cut(last=True)

    def _cut(self, *, last: bool) -> Iterator[memoryview]:
        whole = memoryview(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        begin = 0
        for end in self._cuts(whole):
            # Where there is no cut before the end of what is there, more of it may bring a later one.
            if not last and end == len(whole) and end - begin < self._sizes.most:
                break
            yield whole[begin:end]
            begin = end
        self._parts = [whole[begin:]]
        self._have = len(whole) - begin


def cut(parts: Iterator[bytes], sizes: Sizes) -> Iterator[memoryview]:
    """Yield the pieces of a content that comes in parts."""
    cutter = Cutter(sizes)
    for part in parts:
        yield from cutter.feed(part)
    yield from cutter.rest()


def _finder(sizes: Sizes) -> Callable[[memoryview], Iterator[int]]:
    """Return what yields the ends of the pieces of a content that is all there."""
    try:
        library = cast(Any, importlib.import_module("pyfastcdc"))
    except ImportError:
        return functools.partial(_ends, sizes=sizes)
    cutter = library.FastCDC(avg_size=sizes.average, min_size=sizes.least, max_size=sizes.most)
    return lambda view: (chunk.offset + chunk.length for chunk in cutter.cut_buf(view))


# -- the same without the library ------------------------------------------------------------------------


def _ends(view: memoryview, *, sizes: Sizes) -> Iterator[int]:
    begin = 0
    while begin < len(view):
        begin += _length(view[begin : begin + sizes.most], sizes)
        yield begin


def _length(view: memoryview, sizes: Sizes) -> int:
    """Return the length of the first piece of a content. view: as many of its bytes as a piece may have."""
    bits = sizes.average.bit_length() - 1
    # The last byte is not looked at where their number is odd, as the library takes two at a time.
    rows = ((sizes.least, sizes.average, _MASKS[bits + 1]), (sizes.average, len(view) & ~1, _MASKS[bits - 1]))
    gear, state = _gear(), 0
    for begin, end, mask in rows:
        # All bits of a mask are below the 48th: what is shifted out above is never looked at.
        for at, byte in enumerate(view[begin : min(end, len(view) & ~1)], begin):
            state = (state << 1 & 0xFFFFFFFFFFFF) + gear[byte]
            if not state & mask:
                return at
    return len(view)


@functools.cache
def _gear() -> tuple[int, ...]:
    """Return the random number of each byte, as the authors made them: the first half of an MD5."""
    rows = (hashlib.md5(bytes([byte]) * 64, usedforsecurity=False).digest() for byte in range(256))
    return tuple(int.from_bytes(row[:8], "big") for row in rows)


# -- names -----------------------------------------------------------------------------------------------


@functools.cache
def naming() -> tuple[str, Callable[[bytes | memoryview], bytes]]:
    """Return the name of the digest that pieces are known by, and what computes it, in any thread."""
    try:
        blake3 = cast(Any, importlib.import_module("blake3")).blake3
    except ImportError:
        return "sha256", lambda piece: hashlib.sha256(piece).digest()
    return "blake3", lambda piece: bytes(blake3(piece).digest())
