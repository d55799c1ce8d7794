"""Write one OCI layer (image-spec 1.1, layer.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from buildstep.emit import read_pass
from buildstep.emit.chunk_reuse import LayerFromChunks, refuse_whiteout
from buildstep.emit.interface import ArchiveStyle, Artifact, Blob, Sink
from buildstep.errors import EmitError
from buildstep.events import Bus
from buildstep.formats.chunked import ChunkWriter, Pieces, Stream
from buildstep.formats.codecs import Codec
from buildstep.formats.oci.spec import OCI_LAYER
from buildstep.formats.tar_writer import TarWriter, Whiteout, whiteout
from buildstep.system.files import Extents
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry


def layer_blob(path: Path, stream: Stream, codec: Codec, *, comment: str = "", new: bool = False) -> Blob:
    """Describe a layer that was written. Raises EmitError for a compression that OCI does not have."""
    if codec.media_suffix is None:
        raise EmitError(f"an OCI layer cannot be compressed with {codec.name}")
    return Blob(
        path=path, digest=stream.sha256, size=stream.size, diff_id=stream.raw_sha256,
        media_type=OCI_LAYER + codec.media_suffix, comment=comment, new=new,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerJob:
    """What a layer is made of and how.

    changes: its entries, sorted, the parents of each among them (`read_pass.with_parents`), and what is
    removed; their content is in `root`. reuse: the same entries, to be made from old chunks where possible.
    pieces: what is known of those of large files, which are then cut by their content; watch: another sink
    for what is read; workers, told: see `ChunkWriter`; sha1: see `read_pass`.
    """

    root: Path
    changes: Changes
    codec: Codec
    style: ArchiveStyle
    bus: Bus
    reuse: LayerFromChunks | None = None
    pieces: Pieces | None = None
    watch: Sink | None = None
    workers: int | None = None
    told: Callable[[], None] | None = None
    sha1: dict[str, str] | None = None


def fill_layer(job: LayerJob, fd: int, path: Path) -> tuple[Blob, Stream]:
    """Write a layer into an empty file. path: the one that it will have.

    Fills in the SHA-256 of the entries. Raises EmitError, and ChunkLost where a stored layer is damaged.
    """
    entries, reuse = job.changes.entries, job.reuse
    what = f"the layer {path.name}"
    with ChunkWriter(fd, job.codec, what=what, workers=job.workers, told=job.told, pieces=job.pieces) as out:
        # Where it is made from chunks, what is removed is among the entries.
        layer = LayerWriter(out, replace(job.changes, removed=()) if reuse else job.changes, job.style)
        read = layer.from_chunks(reuse) if reuse else entries
        sinks = (layer,) if job.watch is None else (layer, job.watch)
        work = ((entry, sinks) for entry in read)
        digests = read_pass.read_pass(job.root, work, job.bus, sparse=job.style.sparse, sha1=job.sha1)
        stream = layer.close()
    if reuse is not None:
        job.bus.count("files_read", len(reuse.read))
        job.bus.count("bytes_read", sum(reuse.read))
    for entry in entries:
        if entry.first and entry.kind == "f" and not entry.sha256:
            entry.sha256 = digests[entry.first]
    job.bus.count("bytes_compressed", stream.compressed)
    if same := sum(chunk.raw_length for chunk in stream.chunks if chunk.name and chunk.reused):
        job.bus.count("bytes_of_known_pieces", same)
    return replace(layer_blob(path, stream, job.codec, new=True), brought=job.changes.brought()), stream


def with_whiteouts(changes: Changes) -> list[Entry]:
    """Return the entries of a layer with those that say what is removed, as a LayerWriter orders them."""
    removed = _by_folder(changes.removed)
    found: list[Entry] = []
    if changes.entries and changes.entries[0].path:
        found += map(whiteout, removed.pop(b"", ()))
    for entry in changes.entries:
        found.append(entry)
        if removed and entry.kind == "d":
            found += map(whiteout, removed.pop(entry.path, ()))
    return [*found, *(whiteout(path) for folder in sorted(removed) for path in removed[folder])]


def _by_folder(removed: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for path in sorted(removed):
        found.setdefault(path.rpartition(b"/")[0], []).append(path)
    return found


class LayerWriter:
    """The tar of one layer. A directory's whiteouts come right after it, before what it holds."""

    scope: Literal["tree", "layer"] = "layer"

    def __init__(self, out: ChunkWriter, changes: Changes, style: ArchiveStyle) -> None:
        self._out = out
        self._tar = TarWriter(out, epoch=style.epoch)
        self._removed = _by_folder(changes.removed)
        self._started = False
        self._ended = False

    def from_chunks(self, reuse: LayerFromChunks) -> Iterator[Entry]:
        """Yield the entries to read; chunks that need no reading are written on the way."""
        entries = reuse.entries
        for group in reuse.groups():
            if group.fetch is not None:
                self._out.take(entries[group.begin].path, group.size, group.fetch)
                self._ended = group.end == len(entries)
            else:
                self._out.begin(entries[group.begin].path)
                for entry in entries[group.begin : group.end]:
                    if isinstance(entry, Whiteout):
                        self._tar.begin(entry)
                        self._tar.end(entry)
                    else:
                        yield entry

    def begin(self, entry: Entry) -> None:
        self._before(entry)
        self._tar.begin(entry)

    def begin_sparse(self, entry: Entry, extents: Extents) -> None:
        self._before(entry)
        self._tar.begin_sparse(entry, extents)

    def data(self, offset: int, chunk: bytes) -> None:
        self._tar.data(offset, chunk)

    def end(self, entry: Entry) -> None:
        self._tar.end(entry)
        if self._removed and entry.kind == "d":
            self._whiteouts(entry.path)

    def _before(self, entry: Entry) -> None:
        if not self._started:
            self._started = True
            # Only without a tree is the top not part of a layer; its whiteouts then come first.
            if entry.path:
                self._whiteouts(b"")
        refuse_whiteout(entry)

    def _whiteouts(self, directory: bytes) -> None:
        for path in self._removed.pop(directory, ()):
            entry = whiteout(path)
            self._tar.begin(entry)
            self._tar.end(entry)

    def close(self) -> Stream:
        """Write what ends the layer."""
        # What is left has a parent that is not in the layer, for want of the tree.
        for directory in sorted(self._removed):
            self._whiteouts(directory)
        if not self._ended:
            self._tar.finish()
        return self._out.close()

    def finish(self) -> Artifact:
        raise AssertionError("a layer is not an artifact")
