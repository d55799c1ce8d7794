"""Images as a side of a comparison: image files, listed in place; build records; images in the pool."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.cli.files_side import Opening, Side, read_below
from buildstep.files.compare import Listing
from buildstep.files.compare_packages import DATABASES, Packages
from buildstep.files.compare_report import Named

if TYPE_CHECKING:
    from buildstep.images.record import ImageRecord
    from buildstep.report.record import BuildRecord


# -- archives ---------------------------------------------------------------------------------------------


def is_archive(text: str, _opening: Opening) -> bool:
    from buildstep.images.listing import SCHEMES

    scheme, colon, _ = text.partition(":")
    return os.path.exists(text) or bool(colon and scheme in SCHEMES)


def archive_side(text: str, opening: Opening) -> Side:
    from buildstep.cli import files_side_layers
    from buildstep.files.compare_layers import Gathering
    from buildstep.formats.tree_writer import Lister
    from buildstep.images.listing import listed, record_of
    from buildstep.images.sources.local_file import path_of

    lister = Lister(lambda path: DATABASES.fullmatch(path) is not None)
    gathered = Gathering(lister.content)
    ref, found = listed(text, lister, opening.stack, opening.bus(), opening.work.environ, gathered.take)
    scheme, path = ref.partition(":")[0], path_of(ref)
    listing = Listing.of(found.entries or {})
    layers = files_side_layers.of_source(found, gathered)
    side = Side(named=Named(text, scheme, listing), content=lister.content, layers=layers)
    if path is not None and (build := record_of(path, listing.digest, side.notes)) is not None:
        side.build = build
        side.layers = files_side_layers.as_recorded(layers, build)
        side.named = replace(side.named, build=build.build_id)
        side.packages = packages_of(build)
    return side


def packages_of(record: BuildRecord) -> Packages | None:
    """Return the packages that a build record names; None for none, as it may not know them."""
    if not record.packages:
        return None
    return Packages(record.packages, str(record.inputs.get("installer", "")))


def is_build(text: str, _opening: Opening) -> bool:
    from buildstep.report.record import RECORD_SUFFIX

    return text.endswith(RECORD_SUFFIX) and os.path.isfile(text)


def build_side(text: str, opening: Opening) -> Side:
    from buildstep.images.listing import listable_file
    from buildstep.report import parse

    path = listable_file(parse.load(Path(text)))
    side = archive_side(os.fspath(path), opening)
    side.named = replace(side.named, name=text)
    return side


# -- images -----------------------------------------------------------------------------------------------


def image_side(text: str, opening: Opening) -> Side:
    from buildstep.cli import files_side_layers
    from buildstep.pool.interface import Kind

    store = opening.session().store
    record = store.get(text)
    listing = image_listing(store, record)
    tree = opening.stack.enter_context(store.backend.tree(Kind.IMAGE, record.uuid))
    notes: list[str] = []
    return Side(
        named=Named(f"{record.name}@{record.version}", f"image {record.uuid}", listing),
        content=partial(read_below, os.fsencode(tree)),
        packages=Packages(record.packages, record.installer) if record.packages else None,
        layers=files_side_layers.of_image(record, store, notes),
        notes=notes,
    )


def image_listing(store: Any, record: ImageRecord) -> Listing:
    """Return the file list of an image in a pool, its lines unparsed where what is stored is whole."""
    data = store.stored_list(record)
    return Listing.read(data) if data is not None else Listing.of(store.entries(record))
