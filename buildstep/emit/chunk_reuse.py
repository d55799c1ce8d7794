"""Make a layer from the chunks of earlier layers, so that little has to be read and compressed.

A chunk (see `formats.chunked`) of a layer depends only on the entries in it. Where the same entries come
together again its compressed bytes are copied; where some of them changed, the others are copied out of the
old chunk instead of being read from their files. A stored layer is only used after its digest was checked.

A large file has chunks of its own, which may be found in any layer: `emit.large_pieces`.

    NAME.parts    of the layer NAME: two framed records (see `system.framed`), with a row for each chunk and
                  with one for each piece of a large file
"""

from __future__ import annotations

import bisect
import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from buildstep.emit import read_pass
from buildstep.emit.interface import ArchiveStyle
from buildstep.emit.large_pieces import Piece, StoredPieces
from buildstep.emit.stored_layer import ChunkLost, StoredLayer
from buildstep.errors import EmitError
from buildstep.formats import content_cut
from buildstep.formats.chunk_boundaries import ChunkBoundaries
from buildstep.formats.chunked import Fetch, Stream
from buildstep.formats.codecs import Codec
from buildstep.formats.tar_writer import (
    BLOCK,
    END,
    WHITEOUT,
    Whiteout,
    content_size,
    header,
    is_plain,
    padding,
    second_of,
)
from buildstep.system import framed, text
from buildstep.system.files import Extents
from buildstep.tree.entry import Entry, line

FORMAT = 6

_PAX = ord("x")


class Row(NamedTuple):
    """A chunk of complete entries in a stored layer.

    path: of the first entry; lines: of all of them, each as `layer_line` returns it; last: whether the end of
    the archive is in it; raw: its length uncompressed; offset, length: where it is in the layer's file.
    """

    path: bytes
    lines: bytes
    last: bool
    raw: int
    offset: int
    length: int


class Group(NamedTuple):
    """Entries begin:end of a layer, which go into one chunk; into more where fetch is None and they are read.

    size: about the chunk's uncompressed length; fetch: returns the chunk; may raise ChunkLost, EmitError.
    """

    begin: int
    end: int
    size: int
    fetch: Fetch | None


def layer_line(entry: Entry, style: ArchiveStyle) -> bytes:
    """Return all that decides an entry's bytes in a layer, as one line."""
    # A small file is never sparse.
    mark = b"sparse" if style.sparse and entry.kind == "f" and entry.size > read_pass.SMALL else b""
    return b"%d%b %b" % (second_of(entry, style.epoch), mark, entry.text or line(entry))


# -- the record of a layer's chunks ----------------------------------------------------------------------


def table(stream: Stream, entries: Sequence[Entry], lines: Sequence[bytes]) -> list[Row]:
    """Return the reusable chunks of a layer that was just written. lines: of its entries (`layer_line`)."""
    places = {entry.path: number for number, entry in enumerate(entries)}
    chunks = stream.chunks
    begins = [places.get(chunk.path, -1) for chunk in chunks] + [len(entries)]
    # Where the archive's end did not fit, neither of the last two chunks is of complete entries.
    count = len(chunks) - 2 if len(chunks) > 1 and chunks[-1].raw_length <= len(END) else len(chunks)
    found = []
    for number, chunk in enumerate(chunks[:count]):
        begin, end, last = begins[number], begins[number + 1], number + 1 == len(chunks)
        # A large file has several chunks, and none of them is of complete entries.
        several = number > 0 and chunks[number - 1].path == chunk.path
        if not several and 0 <= begin < end:
            text_of_all = b"".join(lines[begin:end])
            found.append(Row(chunk.path, text_of_all, last, chunk.raw_length, chunk.offset, chunk.length))
    return found


class Table(NamedTuple):
    """What is kept of a layer's chunks. naming: the digest that pieces are named by."""

    rows: list[Row]
    naming: str = ""
    pieces: Sequence[Piece] = ()


def write(stream: IO[bytes], rows: Sequence[Row], pieces: Sequence[Piece] = ()) -> None:
    """Write the record of a layer's chunks into an open file."""
    framed.write(stream, (FORMAT, [tuple(row) for row in rows]))
    framed.write(stream, (content_cut.naming()[0] if pieces else "", [tuple(row) for row in pieces]))


def load(path: Path) -> Table:
    """Return the chunks of a stored layer; none where the record is missing, damaged or of another format."""
    with contextlib.suppress(OSError):
        frames = [value for value, _ in framed.read(path.read_bytes())]
        if len(frames) == 2 and frames[0][0] == FORMAT:
            (_, rows), (naming, pieces) = frames
            return Table([Row(*row) for row in rows], naming, [Piece(*row) for row in pieces])
    return Table([])


# -- reuse ------------------------------------------------------------------------------------------------


class _StoredChunk(NamedTuple):
    layer: StoredLayer
    row: Row


class ReusableChunks:
    """The chunks of some stored layers. `close` it."""

    def __init__(self, layers: Iterable[tuple[Path, Path, str]], codec: Codec) -> None:
        """layers: of each its file, the record of its chunks, and the digest (hex SHA-256) that it must have
        as a whole; empty where the checksum in each chunk is enough."""
        self.codec = codec
        self.large = StoredPieces()
        self._layers: list[StoredLayer] = []
        self._by_lines: dict[tuple[bytes, bool], _StoredChunk] = {}
        self._chunks: list[_StoredChunk] = []
        for path, record, digest in layers:
            with contextlib.suppress(OSError):
                layer = StoredLayer(path, digest)
                self._layers.append(layer)
                found = load(record)
                self.large.add(layer, found.naming, found.pieces)
                for row in found.rows:
                    chunk = self._by_lines[row.lines, row.last] = _StoredChunk(layer, row)
                    self._chunks.append(chunk)
        self._chunks.sort(key=lambda chunk: chunk.row.path)
        self._paths = [chunk.row.path for chunk in self._chunks]

    def close(self) -> None:
        """Close the layers' files."""
        while self._layers:
            self._layers.pop().close()

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def exactly(self, lines: bytes, *, last: bool) -> Fetch | None:
        """Return what fetches the chunk of exactly these entries; None if there is none."""
        chunk = self._by_lines.get((lines, last))
        return None if chunk is None else lambda: self._fetch(chunk)

    def near(self, path: bytes) -> int:
        """Return the number of the chunk that an entry of this path would be in; -1 if there is none."""
        return bisect.bisect_right(self._paths, path) - 1

    def pieces(self, number: int) -> Mapping[bytes, memoryview]:
        """Return the bytes of each entry in a chunk, by its line; none where the chunk is lost."""
        if number >= 0:
            with contextlib.suppress(ChunkLost):
                chunk = self._chunks[number]
                return _split(self._fetch(chunk)[0], chunk.row.lines)
        return {}

    def _fetch(self, chunk: _StoredChunk) -> tuple[bytes, bytes]:
        packed = chunk.layer.read(chunk.row.offset, chunk.row.length)
        try:
            raw = self.codec.expand(packed)
        except Exception as error:  # each library has its own
            raise ChunkLost(f"a chunk of a stored layer cannot be read: {error}") from error
        if len(raw) != chunk.row.raw:
            raise ChunkLost("a chunk of a stored layer has another length than recorded")
        return raw, packed


class LayerFromChunks:
    """A layer that is to be written, and the chunks that it can have from earlier ones.

    entries: all of the layer, in order and hashed, what is removed among them (`emit.layer.with_whiteouts`);
    lines: of each, as `layer_line` returns it; sha1: see `read_pass`.
    """

    def __init__(
        self,
        chunks: ReusableChunks,
        root: Path,
        entries: Sequence[Entry],
        lines: Sequence[bytes],
        *,
        style: ArchiveStyle,
        sha1: dict[str, str] | None = None,
    ) -> None:
        self.entries = entries
        self._sha1 = sha1
        self.read: list[int] = []
        """Sizes of the files that were read, in any thread, to make chunks."""
        self.large = chunks.large
        self._chunks = chunks
        self._root = os.fsencode(root)
        self._lines = lines
        self._style = style

    def groups(self) -> Iterator[Group]:
        """Yield the entries in groups, cut as a ChunkWriter cuts them.

        Raises EmitError, naming the file, where one cannot be read; so does what fetches a chunk.
        """
        boundaries = ChunkBoundaries(self._chunks.codec)
        most, before = boundaries.most, boundaries.before
        begin = have = 0
        large = False  # an entry of the group may need chunks of its own
        for number, entry in enumerate(self.entries):
            if entry.kind == "s":
                continue
            size = self._size(entry)
            if begin < number and (have > most or size > most or before(entry.path, size, have)):
                yield Group(begin, number, have, self._source(begin, number, large=large))
                begin, have, large = number, 0, False
            large = large or size > most
            have += size + -size % BLOCK
        end = len(self.entries)
        if begin < end:
            large = large or have + len(END) >= boundaries.limit  # the end may get a chunk of its own
            yield Group(begin, end, have, self._source(begin, end, large=large))

    def _size(self, entry: Entry) -> int:
        """Return the bytes of an entry in a layer, without the padding after its content."""
        if entry.kind == "f" and not entry.first:
            extents = self._extents(entry)
            if extents is None and is_plain(entry, entry.path, second_of(entry, self._style.epoch)):
                return BLOCK + entry.size
            return len(header(entry, epoch=self._style.epoch, extents=extents)) + content_size(entry, extents)
        return len(header(entry, epoch=self._style.epoch))

    def _extents(self, entry: Entry) -> Extents | None:
        if self._style.sparse and entry.size > read_pass.SMALL:
            return read_pass.extents_of(self._root, entry)
        return None

    def _source(self, begin: int, end: int, *, large: bool) -> Fetch | None:
        same = self._chunks.exactly(b"".join(self._lines[begin:end]), last=end == len(self._lines))
        if same is not None or large:
            return same
        return lambda: (self._assemble(begin, end), None)

    def _assemble(self, begin: int, end: int) -> bytes:
        """Make a chunk of small entries: those that an old chunk has unchanged are copied from there."""
        found: list[bytes | memoryview] = []
        opened = -1
        pieces: Mapping[bytes, memoryview] = {}
        for entry, row in zip(self.entries[begin:end], self._lines[begin:end], strict=True):
            number = self._chunks.near(entry.path)
            if number != opened:
                opened, pieces = number, self._chunks.pieces(number)
            piece = pieces.get(row)
            if piece is not None:
                found.append(piece)
            elif entry.kind != "s":
                refuse_whiteout(entry)
                if entry.kind == "f" and not entry.first and not isinstance(entry, Whiteout):
                    found += self._file(entry)
                else:
                    found.append(header(entry, epoch=self._style.epoch))
        if end == len(self._lines):
            found.append(END)
        return b"".join(found)

    def _file(self, entry: Entry) -> tuple[bytes, bytes, bytes]:
        """Return header, content and padding of a file that no old chunk has."""
        extents = self._extents(entry)
        content = read_pass.content_of(self._root, entry)
        self.read.append(entry.size)
        if self._sha1 is not None:
            self._sha1[entry.sha256] = read_pass.sha1_of(content)
        if extents is not None:
            content = b"".join(content[offset : offset + length] for offset, length in extents)
        return header(entry, epoch=self._style.epoch, extents=extents), content, padding(len(content))


def refuse_whiteout(entry: Entry) -> None:
    """Raise EmitError for a name that means in a layer that something is removed."""
    path = entry.path
    if isinstance(entry, Whiteout):
        return
    if b".wh." in path and path.rpartition(b"/")[2].startswith(WHITEOUT):
        raise EmitError(
            f"{text.shown(path)} cannot be part of an OCI image",
            detail="a name that begins with .wh. means there that a file is removed",
            hint="rename it, or exclude it with build.exclude",
        )


def _split(raw: bytes, lines: bytes) -> dict[bytes, memoryview]:
    """Return the bytes of each entry of a chunk, by its line; none if they do not fit the lines."""
    view = memoryview(raw)
    found = {}
    begin = 0
    for row in lines.splitlines(keepends=True):
        if row.partition(b" ")[2].startswith(b"s\t"):
            continue  # a socket has no place in a layer
        at = begin
        while True:
            # Size and type have their places in a header (POSIX.1-2017, ustar); no size is too large for it
            # in a chunk, and pax records come before the header that they are for.
            kind, size = raw[at + 156], int(raw[at + 124 : at + 135] or b"0", 8)
            at += BLOCK + size + -size % BLOCK
            if kind != _PAX:
                break
        found[row] = view[begin:at]
        begin = at
    return found if len(raw) - begin in (0, len(END)) else {}
