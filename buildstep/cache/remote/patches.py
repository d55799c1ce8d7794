"""Patch frames: the content of a layer's changed parts, made of what its older version has in their place.

Recompiled programs differ in every part, and little in their content. So a frame starts from the content of
older parts, and what it makes is compressed again; only parts whose very bytes that gives are of use. A frame
is kept only if it is less than half as large as those, and used only where the older version is on this
machine.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from buildstep.cache.remote.interface import Unusable
from buildstep.cache.remote.parts import Frame, Gap, Part, Table, gaps
from buildstep.errors import BuildstepError
from buildstep.formats import zstd_patch
from buildstep.formats.codecs import Codec, codec, expand_zstd

_NEW, _OLD = 8 << 20, 16 << 20
"""Bytes of content that a frame makes, and starts from, about."""
_BRIDGE = 256 << 10
"""Bytes of parts that did not change, over which two changes go into one frame."""
_WORTH = 0.5
_FEW = 4 << 10

Read = Callable[[int, int], bytes]
"""Returns the packed bytes of parts in a row: the number of the first, and how many."""


class Made(NamedTuple):
    """Frames, and the blob that they lie in."""

    frames: tuple[Frame, ...]
    blob: bytes


def codec_of(table: Table) -> Codec | None:
    """Return the codec that made an output, if there is the same one here."""
    try:
        found = codec(table.codec)
    except BuildstepError:
        return None
    return found if found.ident == table.ident else None


def make(new: Sequence[Part], read: Read, old: Sequence[Part], read_old: Read, packer: Codec) -> Made:
    """Return the frames that are worth keeping. Raises Unusable, OSError, what `read` raises."""
    frames, blob = [], bytearray()
    for gap in _jobs(new, old):
        packed = read(gap.begin, gap.end - gap.begin)
        if len(packed) < _FEW or gap.old_begin == gap.old_end:
            continue
        content = _content(new[gap.begin : gap.end], packed, packer.name)
        gained = _repeated(new[gap.begin : gap.end], packed, content, packer)
        if gained < _FEW:
            continue
        before = old[gap.old_begin : gap.old_end]
        start = _content(before, read_old(gap.old_begin, len(before)), packer.name)
        frame = zstd_patch.make(b"".join(content), b"".join(start))
        if len(frame) < gained * _WORTH:
            frames.append(Frame(gap.begin, len(content), len(blob), len(frame), gap.old_begin, len(before)))
            blob += frame
    return Made(tuple(frames), bytes(blob))


def apply(
    table: Table, frame: Frame, patch: bytes, old: Sequence[Part], packed_old: bytes
) -> list[bytes | None]:
    """Return the packed bytes of the parts that a frame makes, each with its digest; None for one that comes
    out otherwise. Raises Unusable."""
    packer = codec_of(table)
    parts = table.parts[frame.first : frame.first + frame.many]
    before = old[frame.old_first : frame.old_first + frame.old_count]
    if packer is None or len(before) != frame.old_count:
        raise Unusable("a patch does not fit what is here")
    size, start = sum(part.raw for part in parts), sum(part.raw for part in before)
    if max(size, start) > zstd_patch.LARGEST:
        raise Unusable("a patch is larger than allowed")
    try:
        content = zstd_patch.apply(patch, b"".join(_content(before, packed_old, packer.name)), size)
    except ValueError as error:
        raise Unusable(str(error)) from error
    found: list[bytes | None] = []
    at = 0
    for part in parts:
        data = packer.compress(content[at : at + part.raw])
        at += part.raw
        found.append(data if hashlib.sha256(data).digest() == part.digest else None)
    if not any(found):
        raise Unusable("a patch does not make the parts that it should")
    return found


def _jobs(new: Sequence[Part], old: Sequence[Part]) -> Iterator[Gap]:
    """Yield what to make frames of: changes in a row together, large ones in slices."""
    waiting: Gap | None = None
    for gap in gaps(new, old):
        joined = waiting and Gap(waiting.begin, gap.end, waiting.old_begin, gap.old_end)
        if (
            waiting
            and joined
            and _raw(new[waiting.end : gap.begin]) <= _BRIDGE
            and _raw(new[joined.begin : joined.end]) <= _NEW
            and _raw(old[joined.old_begin : joined.old_end]) <= _OLD
        ):
            waiting = joined
            continue
        if waiting:
            yield from _slices(waiting, new, old)
        waiting = gap
    if waiting:
        yield from _slices(waiting, new, old)


def _slices(gap: Gap, new: Sequence[Part], old: Sequence[Part]) -> Iterator[Gap]:
    """Yield a change in pieces that are not too large, each with the old parts about its place."""
    total, old_total = _raw(new[gap.begin : gap.end]), _raw(old[gap.old_begin : gap.old_end])
    begin, done = gap.begin, 0
    while begin < gap.end:
        end, size = begin, 0
        while end < gap.end and (end == begin or size + new[end].raw <= _NEW):
            size += new[end].raw
            end += 1
        middle = (done + size / 2) / (total or 1) * old_total
        yield Gap(begin, end, *_about(gap, old, middle))
        begin, done = end, done + size


def _about(gap: Gap, old: Sequence[Part], middle: float) -> tuple[int, int]:
    """Return the old parts of a change that lie about a place in it, as many as a frame may start from."""
    first, last, at = gap.old_end, gap.old_begin, 0
    for number in range(gap.old_begin, gap.old_end):
        begin, at = at, at + old[number].raw
        if begin >= middle - _OLD / 2 and at <= middle + _OLD / 2:
            first, last = min(first, number), number + 1
    return (first, last) if first < last else (gap.old_begin, gap.old_begin)


def _raw(parts: Sequence[Part]) -> int:
    return sum(part.raw for part in parts)


def _content(parts: Sequence[Part], packed: bytes, name: str) -> list[bytes]:
    """Return the content of parts in a row, none of it larger than it should be. Raises Unusable."""
    if len(packed) != sum(part.length for part in parts):
        raise Unusable("parts of an output are shorter than they should be")
    found, at = [], 0
    for part in parts:
        data = packed[at : at + part.length]
        at += part.length
        try:
            if name == "gzip":
                raw = zlib.decompressobj(31).decompress(data, part.raw + 1)
            else:
                raw = expand_zstd(data, part.raw)
        except (ValueError, zlib.error) as error:
            raise Unusable(f"a part of an output cannot be expanded: {error}") from error
        if len(raw) != part.raw:
            raise Unusable("a part of an output has another length than its table says")
        found.append(raw)
    return found


def _repeated(parts: Sequence[Part], packed: bytes, content: Sequence[bytes], packer: Codec) -> int:
    """Return the bytes of those parts that come out the same when they are compressed again: those of another
    program do not, nor those that were compressed together with their neighbours."""
    at = found = 0
    for part, raw in zip(parts, content, strict=True):
        if packer.compress(raw) == packed[at : at + part.length]:
            found += part.length
        at += part.length
    return found
