"""Layers of a tree as files of their own, as the cache has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from buildstep.emit import chunk_reuse
from buildstep.emit.chunk_reuse import LayerFromChunks, Row
from buildstep.emit.interface import ArchiveStyle, Blob
from buildstep.emit.large_pieces import Piece, StoredPieces
from buildstep.emit.layer import LayerJob, fill_layer
from buildstep.events import Bus
from buildstep.formats.chunked import Stream
from buildstep.formats.codecs import Codec
from buildstep.system.files import atomic_write
from buildstep.tree.diff import Changes


def write_layer(
    root: Path,
    changes: Changes,
    path: Path,
    *,
    codec: Codec,
    style: ArchiveStyle,
    bus: Bus,
    reuse: LayerFromChunks | None = None,
) -> tuple[Blob, Stream]:
    """Write a layer; large files are cut by their content. For the arguments see `LayerJob`."""
    large = reuse.large if reuse else StoredPieces()
    job = LayerJob(root=root, changes=changes, codec=codec, style=style, bus=bus, reuse=reuse, pieces=large)
    with atomic_write(path, durable=False) as file:
        return fill_layer(job, file.fileno(), path)


def save_chunks(path: Path, rows: Sequence[Row], pieces: Sequence[Piece] = ()) -> None:
    """Write the record of a layer's chunks."""
    with atomic_write(path, durable=False) as stream:
        chunk_reuse.write(stream, rows, pieces)
