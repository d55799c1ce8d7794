"""Parts of layers that were made before, found again: by what is in them, and for what is still in them.

A part (see `parts`) of a layer is decided by the entries in it. Where the same entries stand together again
its compressed form is copied; where some of them changed, the others come out of the old part, not out of a
hundred files. An old part is only used when it has its digest.

    NAME.parts    of the layer NAME: marshal data, a row for each part (see Row)
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import marshal
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from buildstep import readpass
from buildstep.compress import Codec
from buildstep.errors import EmitError
from buildstep.filelist import Entry, line
from buildstep.fsutil import atomic_write
from buildstep.parts import Cuts, Fetch, Stream
from buildstep.tarfmt import BLOCK, content_size, header

FORMAT = 1


class Row(NamedTuple):
    """A part of whole entries. path: the first one's; lines: of all of them, as `told` has them; last:
    whether the layer's end is in it; raw: its length uncompressed; offset, length: where it is in the layer's
    file; check: the SHA-256 of these bytes."""

    path: bytes
    lines: bytes
    last: bool
    raw: int
    offset: int
    length: int
    check: bytes


class PartLost(EmitError):
    """A part of an old layer is not what was written down of it."""


def told(entry: Entry, epoch: int | None) -> bytes:
    """All of an entry that decides its bytes in a layer, as one line."""
    second = entry.mtime // 1_000_000_000
    if epoch is not None and second > epoch:
        second = epoch
    return b"%d %b" % (second, entry.text or line(entry))


# -- what was written -----------------------------------------------------------------------------------


def table(stream: Stream, entries: Sequence[Entry], rows: Sequence[bytes], layer: Path) -> list[Row]:
    """The parts of a layer that was just written. rows: of its entries, as `told` has them."""
    places = {entry.path: number for number, entry in enumerate(entries)}
    parts = stream.parts
    begins = [places.get(part.path, -1) for part in parts] + [len(entries)]
    found = []
    with layer.open("rb", buffering=0) as file:
        for number, part in enumerate(parts):
            begin, end, last = begins[number], begins[number + 1], number + 1 == len(parts)
            # A large file has several parts, and none of them is of whole entries.
            several = number > 0 and parts[number - 1].path == part.path
            if several or not 0 <= begin < end:
                continue
            check = hashlib.sha256(os.pread(file.fileno(), part.length, part.offset)).digest()
            lines = b"".join(rows[begin:end])
            found.append(Row(part.path, lines, last, part.raw_length, part.offset, part.length, check))
    return found


def save(path: Path, found: Sequence[Row]) -> None:
    """Write down the parts of a layer."""
    with atomic_write(path, durable=False) as stream:
        stream.write(marshal.dumps((FORMAT, [tuple(row) for row in found])))


def load(path: Path) -> list[Row]:
    """The parts of a layer; none where they cannot be read."""
    with contextlib.suppress(OSError, ValueError, EOFError, TypeError):
        version, rows = marshal.loads(path.read_bytes())  # noqa: S302 - ours; what it says is checked in use
        if version == FORMAT:
            return [Row(*row) for row in rows]
    return []


# -- what is there to take ------------------------------------------------------------------------------


class OldParts:
    """The parts of some layers."""

    def __init__(self, layers: Iterable[tuple[Path, Path]], codec: Codec) -> None:
        """layers: files, each with that of its parts."""
        self._codec = codec
        self._files: list[int] = []
        self._by_lines: dict[tuple[bytes, bool], tuple[int, Row]] = {}
        ordered: list[tuple[bytes, int, Row]] = []
        for path, parts in layers:
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                self._files.append(fd)
                for row in load(parts):
                    self._by_lines[row.lines, row.last] = (fd, row)
                    ordered.append((row.path, fd, row))
        ordered.sort()
        self._paths = [path for path, _, _ in ordered]
        self._rows = [(fd, row) for _, fd, row in ordered]
        self._open = -1
        self._pieces: Mapping[bytes, memoryview] = {}

    def close(self) -> None:
        """Close the layers' files."""
        while self._files:
            os.close(self._files.pop())

    def __bool__(self) -> bool:
        return bool(self._rows)

    def groups(
        self, root: bytes, entries: Sequence[Entry], rows: Sequence[bytes], *, epoch: int | None
    ) -> Iterator[tuple[int, int, Fetch | None]]:
        """The entries of a layer, hashed and in order, cut as a PartWriter cuts them: where a part begins and
        ends, and what gives it if it is there.

        Raises EmitError, naming the file, where one cannot be looked at.
        """
        cuts = Cuts(self._codec)
        most, before = cuts.most, cuts.before
        begin = have = 0
        large = False
        for number, entry in enumerate(entries):
            if entry.kind == "s":
                continue
            size = _size(root, entry, epoch)
            if begin < number and (large or size > most or before(entry.path, size, have)):
                yield self._group(rows, begin, number, large=large)
                begin, have = number, 0
            large = size > most
            have += size + -size % BLOCK
        if begin < len(entries):
            yield self._group(rows, begin, len(entries), large=large)

    def _group(
        self, rows: Sequence[bytes], begin: int, end: int, *, large: bool
    ) -> tuple[int, int, Fetch | None]:
        lines = b"".join(rows[begin:end])
        known = None if large else self._by_lines.get((lines, end == len(rows)))
        if known is None:
            return begin, end, None
        fd, row = known
        return begin, end, lambda: self._fetch(fd, row)

    def _fetch(self, fd: int, row: Row) -> tuple[bytes, bytes]:
        packed = os.pread(fd, row.length, row.offset)
        if hashlib.sha256(packed).digest() != row.check:
            raise PartLost("a part of a stored layer is damaged")
        try:
            raw = self._codec.expand(packed)
        except Exception as error:  # each library has its own
            raise PartLost(f"a part of a stored layer cannot be read: {error}") from error
        if len(raw) != row.raw:
            raise PartLost("a part of a stored layer is not as long as it was")
        return raw, packed

    def piece(self, path: bytes, row: bytes) -> memoryview | None:
        """An entry as it is in a layer, with header and padding, if an old part has the very same."""
        number = bisect.bisect_right(self._paths, path) - 1
        if number < 0:
            return None
        if self._open != number:
            self._open, self._pieces = number, {}
            with contextlib.suppress(PartLost):
                raw, _ = self._fetch(*self._rows[number])
                self._pieces = _apart(raw, self._rows[number][1].lines)
        return self._pieces.get(row)


def _apart(raw: bytes, lines: bytes) -> dict[bytes, memoryview]:
    """The entries of a part, by their lines."""
    view = memoryview(raw)
    found = {}
    begin = 0
    for row in lines.splitlines(keepends=True):
        at = begin
        while True:
            # Size and type have their places in a header (POSIX.1-2017, ustar); no size is too large for it
            # in a part, and pax records come before the header that they are for.
            kind, size = raw[at + 156], int(raw[at + 124 : at + 135] or b"0", 8)
            at += BLOCK + size + -size % BLOCK
            if kind != _PAX:
                break
        found[row] = view[begin:at]
        begin = at
    return found


_PAX = ord("x")


def _size(root: bytes, entry: Entry, epoch: int | None) -> int:
    """Bytes of an entry in a layer, padding after its content apart."""
    if entry.kind == "f" and not entry.first:
        if entry.size > readpass.SMALL:
            extents = readpass.extents_of(root, entry)
            return len(header(entry, epoch=epoch, extents=extents)) + content_size(entry, extents)
        if not entry.xattrs and len(entry.path) <= 100:
            return BLOCK + entry.size
    return len(header(entry, epoch=epoch)) + content_size(entry)
