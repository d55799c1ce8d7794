"""The layers of a side of a comparison: of an image file that was listed, or of an image in the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from buildstep.cache import base_layers
from buildstep.errors import BuildstepError
from buildstep.files.compare_layers import Gathering, Layer, Layers
from buildstep.formats.tree_writer import Lister
from buildstep.formats.unpack import list_layer
from buildstep.images.layer_list import history_of, layers_of
from buildstep.tree.diff import Brought
from buildstep.tree.entry import FileList

if TYPE_CHECKING:
    from buildstep.images.interface import SourceImage
    from buildstep.images.record import ImageRecord
    from buildstep.images.store import ImageStore
    from buildstep.report.record import BuildRecord


def of_source(found: SourceImage, gathered: Gathering) -> Layers | None:
    """Return the layers of an image that was listed; None where it does not tell their digests.

    gathered: what was seen of each.
    """
    if not found.layers:
        return None
    history = history_of(found.config, len(found.layers))
    rows = [
        Layer(
            digest=file.layer.digest,
            diff_id=file.layer.diff_id,
            size=file.layer.size,
            title=str(row.get("comment") or row.get("created_by") or ""),
            created_by=str(row.get("created_by") or ""),
            brought=brought,
            packages=packages,
        )
        for file, row, (brought, packages) in zip(found.layers, history, gathered.brought, strict=True)
    ]
    return Layers(rows, gathered.made, gathered.removed)


def as_recorded(layers: Layers | None, build: BuildRecord) -> Layers | None:
    """Return the layers of an image with what the record of its build knows of them."""
    if layers is None or [row.digest for row in build.layers] != [row.digest for row in layers.rows]:
        return layers
    rows = [
        replace(
            row, base=known.base, title=known.comment or row.title, packages=row.packages or known.packages
        )
        for row, known in zip(layers.rows, build.layers, strict=True)
    ]
    return Layers(rows, layers.made, layers.removed, recorded=True)


def of_image(record: ImageRecord, store: ImageStore, notes: list[str]) -> Layers | None:
    """Return the layers of an image in the pool. If there are several, those that are kept there are read, to
    know which of them each path is from; notes: is told where that fails."""
    rows = [
        Layer(
            digest=row["digest"],
            diff_id=row["diff_id"],
            size=row["size"],
            title=row["comment"] or row["created_by"],
            created_by=row["created_by"],
            brought=None if row["files"] is None else Brought(row["files"], row["bytes"], row["removed"]),
            packages=tuple(row["packages"]),
        )
        for row in layers_of(record, store)
    ]
    if not rows:
        return None
    if len(rows) == 1:
        return Layers(rows)
    try:
        gathered = _read(record.layers, store)
    except (BuildstepError, OSError) as error:
        notes.append(f"which layer of {record.name} a path is from is not known: {error}")
        return Layers(rows)
    return Layers(rows, gathered.made, gathered.removed)


def _read(layers: Sequence[base_layers.BaseLayer], store: ImageStore) -> Gathering:
    """Raises BuildstepError, OSError where a layer is not there or not readable."""
    lister = Lister(lambda _path: False)
    gathered = Gathering(lister.content)
    entries: FileList = {}
    for layer in layers:
        with base_layers.opened(store.backend.state, layer) as stream:
            after = list_layer(stream, lister, entries)
        gathered.take(entries, after)
        entries = after
    return gathered
