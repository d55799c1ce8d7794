"""The table of an output's parts: the independent members of a compressed layer, and where they lie.

    table  = magic `BSCPARTS`, length of the head u32, head (JSON), a row for each part, in their order
    row    = SHA-256 (32 bytes), length u32, length of its content u32, number of its source u16,
             offset in the source u64

Numbers are little-endian. A source is a blob that holds parts: a pack, whose parts are whole members one
after another. So a new version of a layer adds a pack of what is new, and names the packs of older ones for
the rest. The head has `format`, `size` (of the output), `codec` (gzip or zstd) and `ident` (of the codec that
made it), `sources`: digest and size of each; and where it was compared with an older version: `before`, the
digest of that output and of its table; `patch`: digest and size of a blob of frames; `frames`.

A frame makes the content of some parts in a row from bytes of the older output: `first` and `count` of the
parts, `offset` and `length` in the blob of frames, `old`: first and count of parts of the older output, whose
content is what the frame starts from.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from buildstep.cache.remote.interface import Unusable, is_digest
from buildstep.formats.members import compression_of, members

FORMAT = 1
LARGEST = 16 << 20
"""Bytes of the largest table that is read: of some 300,000 parts."""
FEWEST = 4
"""An output of fewer parts is one blob."""
_MAGIC = b"BSCPARTS"
_HEAD = struct.Struct("<I")
_ROW = struct.Struct("<32sIIHQ")
_MOST_SOURCES = 1000
_LARGEST_PART = 64 << 20


class Part(NamedTuple):
    """A member. source: number of the blob it lies in; offset: in that; place: in the output."""

    digest: bytes
    length: int
    raw: int
    source: int
    offset: int
    place: int


class Source(NamedTuple):
    """A blob that holds parts. digest: hex SHA-256; size: in bytes."""

    digest: str
    size: int


class Frame(NamedTuple):
    """A patch. See the top of this module."""

    first: int
    many: int
    offset: int
    length: int
    old_first: int
    old_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The parts of an output. before: digests of the older output and of its table; patch: the blob of the
    frames. None where there is no such thing."""

    size: int
    codec: str
    ident: str
    sources: tuple[Source, ...]
    parts: tuple[Part, ...]
    before: tuple[str, str] | None = None
    patch: Source | None = None
    frames: tuple[Frame, ...] = ()


def dumps(table: Table) -> bytes:
    """Return a table as it is stored."""
    head: dict[str, Any] = {
        "format": FORMAT, "size": table.size, "codec": table.codec, "ident": table.ident,
        "sources": [list(source) for source in table.sources],
    }  # fmt: skip
    if table.before:
        head["before"] = list(table.before)
    if table.patch:
        head |= {"patch": list(table.patch), "frames": [list(frame) for frame in table.frames]}
    text = json.dumps(head, separators=(",", ":")).encode()
    rows = b"".join(_ROW.pack(*part[:5]) for part in table.parts)
    return b"".join((_MAGIC, _HEAD.pack(len(text)), text, rows))


def parse(data: bytes, size: int) -> Table:
    """Read the table of an output of so many bytes. Raises Unusable for what is none, or does not fit."""
    try:
        if not data.startswith(_MAGIC):
            raise ValueError("it does not begin as one does")
        (length,) = _HEAD.unpack_from(data, len(_MAGIC))
        begin = len(_MAGIC) + _HEAD.size
        head = json.loads(data[begin : begin + length])
        found = _table(head, data[begin + length :])
        if found.size != size:
            raise ValueError("it is of an output of another size")
    except (ValueError, TypeError, KeyError, IndexError, struct.error, RecursionError) as error:
        raise Unusable(f"a table of parts is damaged: {error}") from error
    return found


def _table(head: Mapping[str, Any], rows: bytes) -> Table:
    if head["format"] != FORMAT:
        raise ValueError("it is of another format")
    sources = tuple(_source(row) for row in head["sources"])
    if len(sources) > _MOST_SOURCES:
        raise ValueError("too many sources")
    parts, place = [], 0
    for digest, length, raw, source, offset in _ROW.iter_unpack(rows):
        if not 0 < length <= _LARGEST_PART or raw > _LARGEST_PART:
            raise ValueError("a part of an impossible length")
        if offset + length > sources[source].size:
            raise ValueError("a part lies outside of its source")
        parts.append(Part(digest, length, raw, source, offset, place))
        place += length
    if place != head["size"]:
        raise ValueError("the parts are not the whole output")
    before = head.get("before")
    if before is not None and not (len(before) == 2 and all(map(is_digest, before))):
        raise ValueError("before")
    frames = tuple(Frame(*map(_count, row)) for row in head.get("frames", ()))
    if any(frame.first + frame.many > len(parts) for frame in frames):
        raise ValueError("a frame of parts that there are not")
    return Table(
        size=place, codec=str(head["codec"]), ident=str(head["ident"]), sources=sources, parts=tuple(parts),
        before=(before[0], before[1]) if before else None,
        patch=_source(head["patch"]) if "patch" in head else None, frames=frames,
    )  # fmt: skip


def _source(row: Sequence[Any]) -> Source:
    digest, size = row
    if not is_digest(digest):
        raise ValueError("a source without a digest")
    return Source(digest, _count(size))


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError("no number of bytes")
    return value


def scan(path: Path) -> list[Part] | None:
    """Return the parts of a compressed file, as if it were its own source 0; None if it has few or none.

    Raises OSError.
    """
    if not compression_of(path):
        return None
    found = members(path)
    if len(found) < FEWEST:
        return None
    parts = []
    with path.open("rb") as stream:
        for member in found:
            data = stream.read(member.length)
            parts.append(
                Part(
                    hashlib.sha256(data).digest(), member.length, member.raw, 0, member.offset, member.offset
                )
            )
    return parts


class Gap(NamedTuple):
    """Parts in a row that differ: begin and end in the new output, and in the old."""

    begin: int
    end: int
    old_begin: int
    old_end: int


def gaps(new: Sequence[Part], old: Sequence[Part]) -> list[Gap]:
    """Return where two outputs differ: between parts that both have, in the same order."""
    places = {part.digest: number for number, part in enumerate(old)}
    found, begin, old_begin = [], 0, 0
    for number, part in enumerate(new):
        place = places.get(part.digest, -1)
        if place < old_begin:
            continue
        if number > begin:
            found.append(Gap(begin, number, old_begin, place))
        begin, old_begin = number + 1, place + 1
    if begin < len(new):
        found.append(Gap(begin, len(new), old_begin, len(old)))
    return found
