"""Write one OCI layer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from buildstep.emit import read_pass
from buildstep.emit.chunk_reuse import OldParts, refuse_removal
from buildstep.emit.interface import Artifact, Blob
from buildstep.errors import EmitError
from buildstep.events import Bus
from buildstep.formats.chunked import PartWriter, Stream
from buildstep.formats.codecs import Codec
from buildstep.formats.tar_writer import TarWriter, whiteout
from buildstep.system.files import Extents, atomic_write
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList

_LAYER = "application/vnd.oci.image.layer.v1.tar"


def media_type(layer_codec: Codec) -> str:
    """A layer's media type. Raises EmitError for a compression that OCI does not know."""
    if layer_codec.media_suffix is None:
        raise EmitError(f"an OCI layer cannot be compressed with {layer_codec.name}")
    return _LAYER + layer_codec.media_suffix


def write_layer(
    root: Path | bytes,
    changes: Changes,
    path: Path,
    *,
    codec: Codec,
    epoch: int | None,
    bus: Bus,
    tree: FileList | None = None,
    comment: str = "",
    durable: bool = True,
    old: OldParts | None = None,
    rows: Sequence[bytes] = (),
) -> tuple[Blob, Stream]:
    """Write a layer as a file of its own, which appears complete or not at all.

    tree: what the layer leads to; needed for the parents of what changed unless `changes` is a whole
    tree. epoch: as in `EmitJob`. durable: whether it is on the disk when this returns. old: parts to take
    from, for entries that are all hashed; rows: those entries as `layerparts.told` has them. Fills in the
    SHA-256 of the entries. Raises EmitError, and PartLost where `old` is not what it seemed.
    """
    kind = media_type(codec)
    entries = read_pass.with_parents(changes, tree or {})
    try:
        with (
            atomic_write(path, durable=durable) as file,
            PartWriter(file.fileno(), codec, what=f"the layer {path.name}") as out,
        ):
            layer = LayerWriter(out, changes, epoch)
            work: Iterable[tuple[Entry, tuple[LayerWriter]]] = ((entry, (layer,)) for entry in entries)
            if old and not changes.removed:
                work = layer.taking(old, os.fsencode(root), entries, rows)
            digests = read_pass.read_pass(root, work, bus)
            stream = layer.close()
            if old:
                bus.count("files_read", len(old.read))
                bus.count("bytes_read", sum(old.read))
                old.read.clear()
    except OSError as error:
        raise EmitError(f"cannot write the layer {path.name}: {error.strerror}") from error
    for entry in changes.entries:
        if entry.first and entry.kind == "f" and not entry.sha256:
            entry.sha256 = digests[entry.first]
    bus.count("bytes_compressed", stream.compressed)
    blob = Blob(
        path=path,
        digest=stream.sha256,
        size=stream.size,
        diff_id=stream.raw_sha256,
        media_type=kind,
        comment=comment,
        new=True,
    )
    return blob, stream


class LayerWriter:
    """One layer's tar. A directory's whiteouts come right after it and before what it holds."""

    scope: Literal["tree", "layer"] = "layer"

    def __init__(self, out: PartWriter, changes: Changes, epoch: int | None) -> None:
        self._out = out
        self._tar = TarWriter(out, epoch=epoch)
        self._gone: dict[bytes, list[bytes]] = {}
        for path in sorted(changes.removed):
            self._gone.setdefault(path.rpartition(b"/")[0], []).append(path)
        self._started = False
        self._epoch = epoch
        self._ended = False

    def taking(
        self, old: OldParts, root: bytes, entries: Sequence[Entry], rows: Sequence[bytes]
    ) -> Iterator[tuple[Entry, tuple[LayerWriter]]]:
        """What has to be read of a layer: on the way there, parts that were made before are put in."""
        for begin, end, size, fetch in old.groups(root, entries, rows, epoch=self._epoch):
            if fetch is not None:
                self._out.take(entries[begin].path, size, fetch)
                self._ended = end == len(entries)
            else:
                self._out.begin(entries[begin].path)
                for entry in entries[begin:end]:
                    yield entry, (self,)

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
        if self._gone and entry.kind == "d":
            self._whiteouts(entry.path)

    def _before(self, entry: Entry) -> None:
        if not self._started:
            self._started = True
            # Only without a tree is the top not part of a layer; what it lost is told before all else.
            if entry.path:
                self._whiteouts(b"")
        refuse_removal(entry)

    def _whiteouts(self, directory: bytes) -> None:
        for path in self._gone.pop(directory, ()):
            entry = whiteout(path)
            self._tar.begin(entry)
            self._tar.end(entry)

    def close(self) -> Stream:
        # What is left has a parent that is not in the layer, for want of the tree.
        for directory in sorted(self._gone):
            self._whiteouts(directory)
        if not self._ended:
            self._tar.finish()
        return self._out.close()

    def finish(self) -> Artifact:
        raise AssertionError("a layer is not an artifact")
