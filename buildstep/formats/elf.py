"""What an ELF file needs to run: its program interpreter and its libraries (System V ABI; elf(5))."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

MAGIC = b"\x7fELF"

_RELOCATABLE_PROGRAMS = (2, 3)
"""`e_type` of what is run or loaded: ET_EXEC, ET_DYN."""

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB = 1, 5
_MOST_HEADERS = 512
_MOST_DYNAMIC = 1 << 18
_LONGEST = 4096
"""Bounds of what is read: a file may say what it likes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """interpreter: the program that loads it; empty for a library, and a static one. libraries: by name."""

    interpreter: bytes = b""
    libraries: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def needs(stream: IO[bytes]) -> Needs:
    """Return what an ELF file needs. Nothing is needed by what is no program or library, or is damaged."""
    try:
        return _needs(stream)
    except (struct.error, ValueError, OverflowError):
        return Needs()


def _needs(stream: IO[bytes]) -> Needs:
    head = _read(stream, 0, 64)
    wide, order = head[4] == 2, ">" if head[5] == 2 else "<"
    if head[:4] != MAGIC or head[4] not in (1, 2) or head[5] not in (1, 2):
        raise ValueError("not ELF")
    if struct.unpack_from(f"{order}H", head, 16)[0] not in _RELOCATABLE_PROGRAMS:
        raise ValueError("neither a program nor a library")
    segments = list(_segments(stream, head, order, wide=wide))
    interpreter = next(
        (_text(_read(stream, s.offset, min(s.size, _LONGEST))) for s in segments if s.kind == _PT_INTERP), b""
    )
    dynamic = next((s for s in segments if s.kind == _PT_DYNAMIC), None)
    if dynamic is None:
        return Needs(interpreter=interpreter)
    rows = list(
        struct.iter_unpack(f"{order}{'qQ' if wide else 'iI'}", _whole(stream, dynamic, 16 if wide else 8))
    )
    at = next((value for tag, value in rows if tag == _DT_STRTAB), None)
    names = [value for tag, value in rows if tag == _DT_NEEDED]
    table = None if at is None else _offset(segments, at)
    if table is None:
        return Needs(interpreter=interpreter)
    found = [_text(_read(stream, table + name, _LONGEST, short=True)) for name in names]
    return Needs(interpreter=interpreter, libraries=tuple(name for name in found if name))


def _segments(stream: IO[bytes], head: bytes, order: str, *, wide: bool) -> Iterator[_Segment]:
    """Yield the program headers."""
    start = struct.unpack_from(f"{order}Q" if wide else f"{order}I", head, 32 if wide else 28)[0]
    size, count = struct.unpack_from(f"{order}HH", head, 54 if wide else 42)
    if size < (56 if wide else 32) or count > _MOST_HEADERS:
        raise ValueError("odd program headers")
    table = _read(stream, start, size * count)
    for at in range(0, size * count, size):
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from(f"{order}IIQQQQ", table, at)
        else:
            kind, offset, address, _, length = struct.unpack_from(f"{order}IIIII", table, at)
        yield _Segment(kind, offset, address, length)


def _whole(stream: IO[bytes], segment: _Segment, unit: int) -> bytes:
    """Return a segment of rows of so many bytes."""
    if segment.size > _MOST_DYNAMIC:
        raise ValueError("too large")
    return _read(stream, segment.offset, segment.size - segment.size % unit)


def _offset(segments: list[_Segment], address: int) -> int | None:
    """Return where in the file an address is."""
    for segment in segments:
        if segment.kind == _PT_LOAD and segment.address <= address < segment.address + segment.size:
            return segment.offset + address - segment.address
    return None


def _text(data: bytes) -> bytes:
    return data.partition(b"\0")[0]


def _read(stream: IO[bytes], at: int, size: int, *, short: bool = False) -> bytes:
    """Return bytes of the file. Raises ValueError where there are not so many, if fewer will not do."""
    stream.seek(at)
    data = stream.read(size)
    if len(data) < size and not short:
        raise ValueError("cut short")
    return data
