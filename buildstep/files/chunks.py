"""Large contents as chunks, cut where the content says so, so that a change in one place changes few of them.

Cut by FastCDC (`formats.content_cut`) with the sizes below. A recipe is text: the line `buildstep-chunks 1`,
then a line for each chunk: SHA-256 and size in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

from buildstep.errors import StoreError
from buildstep.files.layout import is_digest
from buildstep.formats import content_cut
from buildstep.formats.content_cut import Sizes

SMALLEST, AVERAGE, LARGEST = 256 << 10, 1 << 20, 4 << 20
_HEAD = "buildstep-chunks 1"


class Piece(NamedTuple):
    """A chunk: its digest, where it begins in the content, its size in bytes."""

    digest: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """The chunks of a content, in order; size: of the content in bytes."""

    pieces: tuple[Piece, ...]
    size: int


def cut(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the chunks of a stream, read to its end. Raises OSError."""
    parts = iter(lambda: stream.read(AVERAGE), b"")
    for piece in content_cut.cut(parts, Sizes(SMALLEST, AVERAGE, LARGEST)):
        yield bytes(piece)


def dumps(pieces: list[tuple[str, int]]) -> bytes:
    """Return a recipe. pieces: digest and size of each chunk."""
    return "\n".join([_HEAD, *(f"{digest} {size}" for digest, size in pieces), ""]).encode()


def parse(data: bytes) -> Recipe:
    """Read a recipe. Raises StoreError for what is none."""
    head, *rows = data.decode("ascii", "replace").split("\n")
    pieces, offset = [], 0
    for row in filter(None, rows):
        digest, _, size = row.partition(" ")
        if not is_digest(digest) or not size.isdigit() or not 0 < int(size) <= LARGEST:
            raise StoreError("the list of the chunks of a content is damaged")
        pieces.append(Piece(digest, offset, int(size)))
        offset += int(size)
    if head != _HEAD:
        raise StoreError("the list of the chunks of a content is of a form that this version does not read")
    return Recipe(tuple(pieces), offset)
