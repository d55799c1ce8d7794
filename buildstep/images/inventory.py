"""The inventory of an image that is there: an archive, a registry's, what a build made, one of a pool."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from buildstep.cache import base_layers
from buildstep.errors import BuildstepError
from buildstep.events import Bus
from buildstep.files.compare_layers import Gathering
from buildstep.formats.oci.config import sound_config
from buildstep.formats.oci.spec import ANNOTATION
from buildstep.formats.spool import Spool
from buildstep.formats.tree_writer import Lister
from buildstep.formats.unpack import list_layer
from buildstep.images import contents
from buildstep.images.interface import SourceImage
from buildstep.images.layer_list import history_of
from buildstep.images.listing import listable_file, listed, record_of
from buildstep.images.record import ImageRecord
from buildstep.images.shown import shown_reference, vendor_of
from buildstep.images.sources.local_file import path_of
from buildstep.images.store import ImageStore
from buildstep.pool.interface import Kind
from buildstep.report.parse import load
from buildstep.report.record import RECORD_SUFFIX, BuildRecord
from buildstep.tree.entry import FileList, tree_digest
from buildstep.trust.inventory.gather import inventory_of
from buildstep.trust.inventory.model import Base, Component, Inventory

_MANAGED = frozenset(("deb", "pkgsrc", "apk", "rpm"))
"""Kinds of components that a package manager installs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """An image that was looked at. inventory: all of it; contents: to read more of it, as long as it is open;
    record: of the build that made it, if that is known; notes: what a person should know."""

    inventory: Inventory
    contents: contents.ImageContents
    record: BuildRecord | None = None
    notes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def of_archive(text: str, *, bus: Bus, environ: Mapping[str, str]) -> Iterator[Looked]:
    """Yield the inventory of an image file, an OCI directory, an image of a registry, or of what a build
    record is about. Nothing is unpacked but into a file without a name.

    Raises ImageError, UsageError for a file that is no record, OSError where there is no room.
    """
    if text.endswith(RECORD_SUFFIX) and os.path.isfile(text):
        text = os.fspath(listable_file(load(Path(text))))
    notes: list[str] = []
    with Spool() as spool, contextlib.ExitStack() as stack:
        gathered = Gathering(lambda _entry: None)
        ref, found = listed(text, spool, stack, bus, environ, gathered.take)
        entries: FileList = found.entries or {}
        history = history_of(found.config, len(found.layers))
        origin_of = contents.origins(gathered.made, contents.steps_of(history))
        image = contents.of_spool(entries, spool, origin_of)
        digest = tree_digest(entries)
        path = path_of(ref)
        record = None if path is None else record_of(path, digest, notes)
        named = _named(found, record)
        inventory = inventory_of(
            image,
            name=named.name,
            version=named.version,
            description=named.description,
            base=base_of(record.input("image")) if record is not None else _base(found),
            digests=named.digests(digest),
            created=named.created,
        )
        components = tuple(map(_of_its_step, inventory.components))
        inventory = replace(
            inventory,
            supplier=named.supplier,
            components=components,
            layers=named.layers,
            known_from=named.known_from,
        )
        yield Looked(inventory=inventory, contents=image, record=record, notes=notes)


@contextlib.contextmanager
def of_stored(store: ImageStore, record: ImageRecord) -> Iterator[Looked]:
    """Yield the inventory of an image in a pool, which was imported. Raises DatasetError, ImageError."""
    notes: list[str] = []
    entries = store.entries(record)
    with store.backend.tree(Kind.IMAGE, record.uuid) as tree:
        count = len(record.layers)
        history = history_of(record.config, count) if count else ()
        made = _made(record, store, notes) if count > 1 else {}
        origin_of = contents.origins(made, contents.steps_of(history))
        image = contents.of_tree(entries, tree, origin_of)
        inventory = inventory_of(
            image,
            name=record.name,
            version=record.version,
            description=str(record.manifest.get("description") or ""),
            digests={"tree": tree_digest(entries)},
        )
        ours = contents.is_ours(history)
        inventory = replace(inventory, known_from="build" if ours else "image")
        yield Looked(inventory=inventory, contents=image, notes=notes)


def _made(record: ImageRecord, store: ImageStore, notes: list[str]) -> Mapping[bytes, int]:
    """Return which layer made each path, by the layers that the pool keeps."""
    lister = Lister(lambda _path: False)
    gathered = Gathering(lister.content)
    entries: FileList = {}
    try:
        for layer in record.layers:
            with base_layers.opened(store.backend.state, layer) as stream:
                after = list_layer(stream, lister, entries)
            gathered.take(entries, after)
            entries = after
    except (BuildstepError, OSError) as error:
        notes.append(f"which layer of {record.name} a path is from is not known: {error}")
        return {}
    return gathered.made


def _of_its_step(component: Component) -> Component:
    """Return a component whose layer several steps made, with the one that brings such."""
    steps = component.origin.step.split(", ")
    if len(steps) == 1 or component.kind not in _MANAGED or "packages" not in steps:
        return component
    return replace(component, origin=replace(component.origin, step="packages"))


# -- what an image is called ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Names:
    name: str
    version: str
    description: str
    supplier: str
    created: int | None
    oci: str
    layers: tuple[str, ...]
    known_from: Any

    def digests(self, tree: str) -> dict[str, str]:
        return {"tree": tree} | ({"oci": self.oci} if self.oci else {})


def _named(found: SourceImage, record: BuildRecord | None) -> _Names:
    """Return what an image is called, and what names it whatever the clock said when it was built: without
    SOURCE_DATE_EPOCH each build of ours has a digest of its own, and no time."""
    labels = _labels(found.config)
    history = history_of(found.config, len(found.layers))
    ours = record is not None or contents.is_ours(history)
    epoch = record.input("spec").get("source_date_epoch") if record is not None else None
    given = int(epoch) if isinstance(epoch, int | str) and str(epoch).isdigit() else None
    created = given if record is not None else None if ours else _seconds(found.config.get("created"))
    fixed = not ours or created is not None
    manifest = record.input("manifest") if record is not None else found.manifest
    return _Names(
        name=record.name if record is not None else labels.get("title") or str(found.manifest["name"]),
        version=record.version if record is not None else str(found.manifest["version"]),
        description=str(manifest.get("description") or ""),
        supplier=vendor_of(*_oci_of(record), {f"{ANNOTATION}{name}": text for name, text in labels.items()}),
        created=created,
        oci=found.inputs.get("digest", "") if fixed else "",
        layers=tuple(f"sha256:{row.layer.digest}" for row in found.layers) if fixed else (),
        known_from="build" if ours else "image",
    )


def _oci_of(record: BuildRecord | None) -> list[Mapping[str, Any]]:
    """Return the annotations and labels that a build was given for its image."""
    given = record.input("spec").get("oci") if record is not None else None
    rows = [given.get(name) for name in ("annotations", "labels")] if isinstance(given, Mapping) else []
    return [row for row in rows if isinstance(row, Mapping)]


def base_of(given: Mapping[str, Any]) -> Base | None:
    """Return the base image of a build by what its record says of it; None where it says nothing, or the
    image was made from nothing."""
    label = str(given.get("label") or given.get("name") or "")
    if label in ("", "scratch"):
        return None
    values = {name: str(given.get(name) or "") for name in ("name", "version", "digest", "tree_digest")}
    return Base(label=shown_reference(label), **values)


def _base(found: SourceImage) -> Base | None:
    """Return the base image that the annotations of an image name."""
    labels = _labels(found.config)
    name = labels.get("base.name", "")
    digest = labels.get("base.digest", "")
    return Base(label=shown_reference(name), digest=digest) if name else None


def _labels(config: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the standard labels of an image, by what follows their prefix."""
    labels = (sound_config(config, lambda _name: None).get("config") or {}).get("Labels") or {}
    return {
        name.removeprefix(ANNOTATION): str(value)
        for name, value in labels.items()
        if name.startswith(ANNOTATION)
    }


def _seconds(text: Any) -> int | None:
    """Return the seconds since 1970 of a time in a configuration; None for none, or for the beginning."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return int(datetime.fromisoformat(str(text)).timestamp()) or None
    return None
