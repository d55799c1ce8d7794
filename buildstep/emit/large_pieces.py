"""The pieces of large files that stored layers have: what did not change in a file is not compressed again.

A large file is cut where its content says so (`formats.content_cut`), so that bytes that are changed, added
or taken away in one place change one or two pieces. The file is read and hashed as a whole, in any case; a
piece is known again by its digest, and its compressed bytes are copied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from buildstep.emit.stored_layer import ChunkLost, StoredLayer
from buildstep.formats import content_cut
from buildstep.formats.chunked import Stream


class Piece(NamedTuple):
    """A piece in a stored layer.

    name: the digest of its content; raw: its length uncompressed; offset, length: where it is in the layer's
    file; check: the CRC-32 of what is there.
    """

    name: bytes
    raw: int
    offset: int
    length: int
    check: int


def table(stream: Stream) -> list[Piece]:
    """Return the pieces of a layer that was just written, each content once."""
    pieces = {
        chunk.name: Piece(chunk.name, chunk.raw_length, chunk.offset, chunk.length, chunk.check)
        for chunk in stream.chunks
        if chunk.name
    }
    return list(pieces.values())


class StoredPieces:
    """The pieces of some stored layers, for a `ChunkWriter`."""

    def __init__(self) -> None:
        self._pieces: dict[bytes, tuple[StoredLayer, Piece]] = {}
        self._damaged: set[Path] = set()
        self._told: set[Path] = set()

    def add(self, layer: StoredLayer, naming: str, pieces: Iterable[Piece]) -> None:
        """Take a layer's pieces in. naming: the digest that they are named by; others are of no use here."""
        if naming == content_cut.naming()[0]:
            self._pieces.update((piece.name, (layer, piece)) for piece in pieces)

    def find(self, name: bytes, length: int) -> bytes | None:
        """See `chunked.Pieces`."""
        layer, piece = self._pieces.get(name, (None, None))
        if layer is None or piece is None or piece.raw != length or layer.path in self._damaged:
            return None
        with contextlib.suppress(ChunkLost, OSError):
            return layer.read_checked(piece.offset, piece.length, piece.check)
        self._damaged.add(layer.path)
        return None

    def newly_damaged(self) -> list[Path]:
        """Return the layers of which a piece was wanted that is damaged, each once."""
        found = sorted(self._damaged - self._told)
        self._told.update(found)
        return found
