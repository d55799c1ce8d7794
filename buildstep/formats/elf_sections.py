"""Named sections of an ELF file, and the notes in them (System V ABI, chapter 4; elf(5))."""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator

from buildstep.formats.elf import MAGIC

_MOST_SECTIONS = 4096
_LONGEST_NAME = 200


def sections(data: bytes, wanted: Container[bytes], limit: int) -> dict[bytes, bytes]:
    """Return the content of the sections of these names; none of what is no ELF file, or is damaged.

    limit: bytes of one that is returned; larger ones are left out.
    """
    try:
        return dict(_sections(data, wanted, limit))
    except (struct.error, ValueError, IndexError):
        return {}


def _sections(data: bytes, wanted: Container[bytes], limit: int) -> Iterator[tuple[bytes, bytes]]:
    if data[:4] != MAGIC or data[4] not in (1, 2) or data[5] not in (1, 2):
        raise ValueError("not ELF")
    wide, order = data[4] == 2, ">" if data[5] == 2 else "<"
    start = struct.unpack_from(f"{order}Q" if wide else f"{order}I", data, 40 if wide else 32)[0]
    size, count, names_at = struct.unpack_from(f"{order}HHH", data, 58 if wide else 46)
    if size < (64 if wide else 40) or count > _MOST_SECTIONS or not start:
        raise ValueError("odd section headers")
    # Of a header: name, type, flags, address, offset, size.
    form = f"{order}IIQQQQ" if wide else f"{order}IIIIII"
    rows = [struct.unpack_from(form, data, start + at * size) for at in range(count)]
    names = rows[names_at]
    for name, kind, _, _, offset, length in rows:
        at = names[4] + name
        text = data[at : at + _LONGEST_NAME].partition(b"\0")[0]
        if text in wanted and kind != 8 and length <= limit and offset + length <= len(data):  # 8: SHT_NOBITS
            yield text, data[offset : offset + length]


def notes(section: bytes, *, big: bool = False) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield owner, type and content of each note of a section; ends where one is damaged."""
    at = 0
    while at + 12 <= len(section):
        owner, size, kind = struct.unpack_from(">III" if big else "<III", section, at)
        name_end = at + 12 + owner
        content = at + 12 + (owner + 3 & ~3)
        if content + size > len(section):
            return
        yield section[at + 12 : name_end].rstrip(b"\0"), kind, section[content : content + size]
        at = content + (size + 3 & ~3)
