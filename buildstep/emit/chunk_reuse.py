"""Parts of layers that were made before, found again: by what is in them, and for what is still in them.

A part (see `parts`) of a layer is decided by the entries in it. Where the same entries stand together again
its compressed form is copied; where some of them changed, the others come out of the old part, not out of a
hundred files. An old layer is only used when it has its digest.

    NAME.parts    of the layer NAME: a frame (see `frames`) with a row for each part (see Row)
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from buildstep.emit import read_pass
from buildstep.errors import EmitError
from buildstep.formats.chunked import Cuts, Fetch, Stream
from buildstep.formats.codecs import Codec
from buildstep.formats.tar_writer import BLOCK, END, MAX_ID, WHITEOUT, content_size, header, padding
from buildstep.system import framed, text
from buildstep.system.files import atomic_write
from buildstep.tree.entry import Entry, line

FORMAT = 3


class Row(NamedTuple):
    """A part of whole entries. path: the first one's; lines: of all of them, as `told` has them; last:
    whether the layer's end is in it; raw: its length uncompressed; offset, length: where it is in the layer's
    file."""

    path: bytes
    lines: bytes
    last: bool
    raw: int
    offset: int
    length: int


class PartLost(EmitError):
    """A part of an old layer is not what was written down of it."""


def told(entry: Entry, epoch: int | None) -> bytes:
    """All of an entry that decides its bytes in a layer, as one line."""
    second = entry.mtime // 1_000_000_000
    if epoch is not None and second > epoch:
        second = epoch
    return b"%d %b" % (second, entry.text or line(entry))


# -- what was written -----------------------------------------------------------------------------------


def table(stream: Stream, entries: Sequence[Entry], rows: Sequence[bytes]) -> list[Row]:
    """The parts of a layer that was just written. rows: of its entries, as `told` has them."""
    places = {entry.path: number for number, entry in enumerate(entries)}
    parts = stream.parts
    begins = [places.get(part.path, -1) for part in parts] + [len(entries)]
    # Where the layer's end did not fit, neither of the last two parts is of whole entries.
    count = len(parts) - 2 if len(parts) > 1 and parts[-1].raw_length <= len(END) else len(parts)
    found = []
    for number, part in enumerate(parts[:count]):
        begin, end, last = begins[number], begins[number + 1], number + 1 == len(parts)
        # A large file has several parts, and none of them is of whole entries.
        several = number > 0 and parts[number - 1].path == part.path
        if not several and 0 <= begin < end:
            lines = b"".join(rows[begin:end])
            found.append(Row(part.path, lines, last, part.raw_length, part.offset, part.length))
    return found


def save(path: Path, found: Sequence[Row]) -> None:
    """Write down the parts of a layer."""
    with atomic_write(path, durable=False) as stream:
        framed.write(stream, (FORMAT, [tuple(row) for row in found]))


def load(path: Path) -> list[Row]:
    """The parts of a layer; none where they cannot be read."""
    with contextlib.suppress(OSError):
        for (version, rows), _ in framed.read(path.read_bytes()):
            return [Row(*row) for row in rows] if version == FORMAT else []
    return []


# -- what is there to take ------------------------------------------------------------------------------


class LayerWriter:
    """An old layer's file. What is read of it is what was written, or PartLost."""

    def __init__(self, path: Path, digest: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._digest = digest
        self._sound: bool | None = None
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        with self._lock:
            if self._sound is None:
                with open(self.fd, "rb", buffering=0, closefd=False) as stream:
                    self._sound = hashlib.file_digest(stream, "sha256").hexdigest() == self._digest
        if not self._sound:
            raise PartLost("a stored layer is damaged")
        return os.pread(self.fd, length, offset)


class OldParts:
    """The parts of some layers."""

    def __init__(self, layers: Iterable[tuple[Path, Path, str]], codec: Codec) -> None:
        """layers: files, each with that of its parts and its digest (hex SHA-256)."""
        self._codec = codec
        self._files: list[LayerWriter] = []
        self._by_lines: dict[tuple[bytes, bool], tuple[LayerWriter, Row]] = {}
        self._rows: list[tuple[LayerWriter, Row]] = []
        for path, parts, digest in layers:
            with contextlib.suppress(OSError):
                layer = LayerWriter(path, digest)
                self._files.append(layer)
                for row in load(parts):
                    self._by_lines[row.lines, row.last] = (layer, row)
                    self._rows.append((layer, row))
        self._rows.sort(key=lambda item: item[1].path)
        self._paths = [row.path for _, row in self._rows]
        self.read: list[int] = []
        """Sizes of the files that were read to make parts."""

    def close(self) -> None:
        """Close the layers' files."""
        while self._files:
            os.close(self._files.pop().fd)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def groups(
        self, root: bytes, entries: Sequence[Entry], rows: Sequence[bytes], *, epoch: int | None
    ) -> Iterator[tuple[int, int, int, Fetch | None]]:
        """The entries of a layer, hashed and in order, cut as a PartWriter cuts them: where a part begins and
        ends, about how long it is, and what gives it. That is None for one that may be cut into more.

        Raises EmitError, naming the file, where one cannot be looked at; so does what gives a part.
        """
        cuts = Cuts(self._codec)
        most, before = cuts.most, cuts.before
        begin = have = 0
        large = False  # something in the group is
        for number, entry in enumerate(entries):
            if entry.kind == "s":
                continue
            size = _size(root, entry, epoch)
            if begin < number and (have > most or size > most or before(entry.path, size, have)):
                yield begin, number, have, self._given(root, entries, rows, begin, number, epoch, large=large)
                begin, have, large = number, 0, False
            large = large or size > most
            have += size + -size % BLOCK
        if begin < len(entries):
            end = len(entries)
            large = large or have + len(END) >= cuts.limit  # the end may get a part of its own
            yield begin, end, have, self._given(root, entries, rows, begin, end, epoch, large=large)

    def _given(
        self,
        root: bytes,
        entries: Sequence[Entry],
        rows: Sequence[bytes],
        begin: int,
        end: int,
        epoch: int | None,
        *,
        large: bool,
    ) -> Fetch | None:
        last = end == len(rows)
        known = self._by_lines.get((b"".join(rows[begin:end]), last))
        if known is not None:
            layer, row = known
            return lambda: self._fetch(layer, row)
        if large:
            return None
        return lambda: (self._assembled(root, entries[begin:end], rows[begin:end], epoch, last=last), None)

    def _fetch(self, layer: LayerWriter, row: Row) -> tuple[bytes, bytes]:
        packed = layer.read(row.offset, row.length)
        try:
            raw = self._codec.expand(packed)
        except Exception as error:  # each library has its own
            raise PartLost(f"a part of a stored layer cannot be read: {error}") from error
        if len(raw) != row.raw:
            raise PartLost("a part of a stored layer is not as long as it was")
        return raw, packed

    def _assembled(
        self, root: bytes, entries: Sequence[Entry], rows: Sequence[bytes], epoch: int | None, *, last: bool
    ) -> bytes:
        """A part of small entries: those that an old part has just so come from there."""
        found: list[bytes | memoryview] = []
        opened = -1
        there: Mapping[bytes, memoryview] = {}
        for entry, row in zip(entries, rows, strict=True):
            number = bisect.bisect_right(self._paths, entry.path) - 1
            if number != opened:
                opened, there = number, self._pieces(number)
            piece = there.get(row)
            if piece is not None:
                found.append(piece)
            elif entry.kind != "s":
                refuse_removal(entry)
                if entry.kind == "f" and not entry.first:
                    found += self._file(root, entry, epoch)
                else:
                    found.append(header(entry, epoch=epoch))
        if last:
            found.append(END)
        return b"".join(found)

    def _file(self, root: bytes, entry: Entry, epoch: int | None) -> tuple[bytes, bytes, bytes]:
        """A file that an old part does not have: header, content and padding."""
        extents = read_pass.extents_of(root, entry) if entry.size > read_pass.SMALL else None
        content = read_pass.content_of(root, entry)
        self.read.append(entry.size)
        if extents is not None:
            content = b"".join(content[offset : offset + length] for offset, length in extents)
        return header(entry, epoch=epoch, extents=extents), content, padding(len(content))

    def _pieces(self, number: int) -> Mapping[bytes, memoryview]:
        """The entries in an old part; none where it is lost, and their files have to be read."""
        if number >= 0:
            with contextlib.suppress(PartLost):
                raw, _ = self._fetch(*self._rows[number])
                return _apart(raw, self._rows[number][1].lines)
        return {}


def refuse_removal(entry: Entry) -> None:
    """Raise EmitError for a name that means in a layer that something is removed."""
    path = entry.path
    if b".wh." in path and path.rpartition(b"/")[2].startswith(WHITEOUT):
        raise EmitError(
            f"{text.shown(path)} cannot be part of an OCI image",
            detail="a name that begins with .wh. means there that a file is removed",
            hint="rename it, or exclude it with build.exclude",
        )


def _apart(raw: bytes, lines: bytes) -> dict[bytes, memoryview]:
    """The entries of a part, by their lines."""
    view = memoryview(raw)
    found = {}
    begin = 0
    for row in lines.splitlines(keepends=True):
        if row.partition(b" ")[2].startswith(b"s\t"):
            continue  # a socket has no place in a layer
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
    return found if len(raw) - begin in (0, len(END)) else {}


_PAX = ord("x")


def _size(root: bytes, entry: Entry, epoch: int | None) -> int:
    """Bytes of an entry in a layer, padding after its content apart."""
    if entry.kind == "f" and not entry.first:
        if entry.size > read_pass.SMALL:
            extents = read_pass.extents_of(root, entry)
            return len(header(entry, epoch=epoch, extents=extents)) + content_size(entry, extents)
        if not entry.xattrs and len(entry.path) <= 100 and (entry.uid | entry.gid) <= MAX_ID:
            return BLOCK + entry.size  # as nearly every one
    return len(header(entry, epoch=epoch)) + content_size(entry)
