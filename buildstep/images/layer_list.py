"""The layers of a base image, as `image show` lists them: what each is, and what it brings."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildstep.cache import base_layers, records
from buildstep.cache.base_layers import BaseLayer
from buildstep.cache.blob_files import RECORD_FORMAT, BlobRecord, record_path
from buildstep.errors import ImageError
from buildstep.formats.oci.config import sound_config
from buildstep.formats.tree_writer import Lister
from buildstep.formats.unpack import list_layer
from buildstep.images.record import ImageRecord, history_of_import
from buildstep.images.store import ImageStore
from buildstep.rootfs.installers.package_database import named
from buildstep.tree.diff import diff
from buildstep.tree.entry import FileList


def layers_of(image: ImageRecord, store: ImageStore) -> list[dict[str, Any]]:
    """Return the layers of an image, lowest first, as JSON data.

    An image that came without layers is one, in images that are based on it: it has a digest here when an
    image of a build had it in this pool. files, bytes and removed are None where nobody counted.
    """
    if not image.layers:
        return [_whole(image, store)] if image.own_layers else []
    history = history_of(image.config, len(image.layers))
    layers = image.layers if all(layer.brought for layer in image.layers) else _read(image.layers, store)
    return [
        {
            "digest": layer.digest,
            "diff_id": layer.diff_id,
            "size": layer.size,
            "media_type": layer.media_type,
            "created_by": str(row.get("created_by") or "") or history_of_import(image),
            "comment": str(row.get("comment") or ""),
            **_counted(layer.brought),
            "packages": list(layer.packages),
        }
        for layer, row in zip(layers, history, strict=True)
    ]


def _read(layers: Sequence[BaseLayer], store: ImageStore) -> list[BaseLayer]:
    """Return layers that were imported before what they bring was counted: from their files, but for the
    packages. Those above one that cannot be read are as they were."""
    lister = Lister(lambda _path: False)
    entries: FileList = {}
    found = []
    with contextlib.suppress(OSError, ImageError):
        for layer in layers:
            before = entries
            with base_layers.opened(store.backend.state, layer) as stream:
                entries = list_layer(stream, lister, before)
            found.append(replace(layer, brought=diff(before, entries).brought()))
    return [*found, *layers[len(found) :]]


def _whole(image: ImageRecord, store: ImageStore) -> dict[str, Any]:
    blob = _blob(image, store.backend.state)
    entries = store.known_entries(image)
    return {
        "digest": blob.digest if blob else "",
        "diff_id": blob.diff_id if blob else "",
        "size": blob.size if blob else None,
        "media_type": blob.media_type if blob else "",
        "created_by": history_of_import(image),
        "comment": "",
        **_counted(None if entries is None else diff({}, entries).brought()),
        "packages": list(named(image.packages)),
    }


def _counted(brought: Sequence[int] | None) -> dict[str, int | None]:
    files, length, removed = brought if brought is not None else (None, None, None)
    return {"files": files, "bytes": length, "removed": removed}


def history_of(config: Mapping[str, Any], count: int) -> list[Mapping[str, Any]]:
    """Return what a configuration says of each of so many layers; nothing where it tells of others."""
    rows = sound_config(config, lambda _name: None).get("history") or ()
    found = [row for row in rows if not row.get("empty_layer")]
    return found if len(found) == count else [{}] * count


def _blob(image: ImageRecord, state: Path) -> BlobRecord | None:
    """Return the record of an image's compressed layer, if a build made it."""
    key = f"base {image.list_digest} "
    for path in sorted((state / "blobs").glob("*.json")):
        known = records.find(BlobRecord, record_path(path.with_suffix("")), RECORD_FORMAT)
        if known is not None and known.key.startswith(key):
            return known
    return None
