"""Images as a side of a comparison: image files, listed in place; build records; images in the pool."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from buildstep.cli.files_side import Opening, Side, read_below
from buildstep.errors import BuildstepError, ImageError
from buildstep.files.compare import Listing
from buildstep.files.compare_packages import DATABASES, Packages
from buildstep.files.compare_report import Named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from buildstep.events import Bus
    from buildstep.formats.tree_writer import Lister
    from buildstep.images.interface import SourceImage
    from buildstep.images.record import ImageRecord
    from buildstep.report.record import BuildRecord
    from buildstep.tree.entry import FileList


_ARCHIVES = ("tar", "oci", "docker-archive", "docker")
"""Schemes of sources whose image can be listed; those of the others need a pool to be unpacked in."""


# -- archives ---------------------------------------------------------------------------------------------


def is_archive(text: str, _opening: Opening) -> bool:
    scheme, colon, _ = text.partition(":")
    return os.path.exists(text) or bool(colon and scheme in _ARCHIVES)


def archive_side(text: str, opening: Opening) -> Side:
    from buildstep.cli import files_side_layers
    from buildstep.files.compare_layers import Gathering
    from buildstep.formats.tree_writer import Lister
    from buildstep.images.sources.local_file import path_of

    lister = Lister(lambda path: DATABASES.fullmatch(path) is not None)
    gathered = Gathering(lister.content)
    ref, found = listed(text, lister, opening.stack, opening.bus(), opening.work.environ, gathered.take)
    scheme, path = ref.partition(":")[0], path_of(ref)
    listing = Listing.of(found.entries or {})
    layers = files_side_layers.of_source(found, gathered)
    side = Side(named=Named(text, scheme, listing), content=lister.content, layers=layers)
    if path is not None and (build := _record_of(path, listing, side.notes)) is not None:
        side.build = build
        side.layers = files_side_layers.as_recorded(layers, build)
        side.named = replace(side.named, build=build.build_id)
        side.packages = packages_of(build)
    return side


def listed(
    text: str,
    lister: Lister,
    stack: ExitStack,
    bus: Bus,
    environ: Mapping[str, str],
    take: Callable[[FileList, FileList], None] = lambda _before, _after: None,
) -> tuple[str, SourceImage]:
    """Return an image file, or an image of a registry, as a locator and what its source knows of it; it has a
    list of its files.

    lister: is given every file; stack: what it needs is there until this ends; take: is given the list before
    each layer, and with it. Raises ImageError.
    """
    from buildstep.formats.unpack import list_archive, list_layer
    from buildstep.images.file_kind import kind_of
    from buildstep.images.interface import SourceContext
    from buildstep.images.sources import parse
    from buildstep.images.sources.local_file import path_of

    ref = f"{kind_of(Path(text))}:{text}" if os.path.exists(text) else text
    scheme = ref.partition(":")[0]
    if scheme not in _ARCHIVES or (parsed := parse(ref, environ=environ, bus=bus)) is None:
        raise ImageError(
            f"the files of {text} cannot be listed: it is of the kind {scheme}",
            hint="import it with `buildstep image import`, then take the image in the pool",
        )
    source, locator = parsed
    path = path_of(ref)
    if path is not None and not path.exists():
        raise ImageError(f"there is no file {path}")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="buildstep-list-")))
    (folder / "into").mkdir()
    (folder / "cache").mkdir()

    def layer(stream: IO[bytes], _into: Path, below: FileList) -> FileList:
        entries = list_layer(stream, lister, below)
        take(below, entries)
        return entries

    context = SourceContext(
        cache=folder / "cache",
        downloads=folder,
        privileged=False,
        bus=bus,
        environ=environ,
        unpack=lambda stream, _into: list_archive(stream, lister),
        apply_layer=layer,
    )
    try:
        if path is not None:
            source.identify(locator, lambda _path: "")  # it says what is wrong with a file
        found = source.fetch(locator, folder / "into", context)
    except OSError as error:
        raise ImageError(f"cannot read {text}: {error.strerror}") from error
    return ref, found


def _record_of(path: Path, listing: Listing, notes: list[str]) -> BuildRecord | None:
    """Return the record of the build that made an image file, if it lies beside it and is of this tree."""
    from buildstep.report import parse
    from buildstep.report.record import RECORD_SUFFIX

    for file in sorted(path.absolute().parent.glob(f"*{RECORD_SUFFIX}")):
        if not path.name.startswith(file.name.removesuffix(RECORD_SUFFIX)):
            continue
        try:
            record = parse.load(file)
        except BuildstepError as error:
            notes.append(f"the build record {file} is not used: {error.message}")
            continue
        if path.name in [artifact.name for artifact in record.artifacts]:
            if record.tree_digest == listing.digest:
                return record
            notes.append(f"the build record {file} is not used: it is of another tree than {path.name}")
    return None


def packages_of(record: BuildRecord) -> Packages | None:
    """Return the packages that a build record names; None for none, as it may not know them."""
    if not record.packages:
        return None
    return Packages(record.packages, str(record.inputs.get("installer", "")))


def is_build(text: str, _opening: Opening) -> bool:
    from buildstep.report.record import RECORD_SUFFIX

    return text.endswith(RECORD_SUFFIX) and os.path.isfile(text)


def build_side(text: str, opening: Opening) -> Side:
    from buildstep.images.file_kind import kind_of
    from buildstep.report import parse

    record = parse.load(Path(text))
    for artifact in record.artifacts:
        for path in (Path(text).with_name(artifact.name), Path(artifact.path)):
            if path.exists() and kind_of(path) in _ARCHIVES:
                side = archive_side(os.fspath(path), opening)
                side.named = replace(side.named, name=text)
                return side
    raise ImageError(
        f"{text} names no image file that is here and whose files can be listed",
        hint="give the image file itself, or build it again with --format tar or oci",
    )


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
