"""Image files and images of registries, listed in place: no pool is needed, and nothing is unpacked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from buildstep.errors import BuildstepError, ImageError
from buildstep.events import Bus
from buildstep.formats.tree_writer import Lister
from buildstep.formats.unpack import list_archive, list_layer
from buildstep.images.file_kind import kind_of
from buildstep.images.interface import SourceContext, SourceImage
from buildstep.images.sources import parse
from buildstep.images.sources.local_file import path_of
from buildstep.report.parse import load
from buildstep.report.record import RECORD_SUFFIX, BuildRecord
from buildstep.tree.entry import FileList

SCHEMES = ("tar", "oci", "docker-archive", "docker")
"""Schemes of sources whose image can be listed; those of the others need a pool to be unpacked in."""


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
    ref = f"{kind_of(Path(text))}:{text}" if os.path.exists(text) else text
    scheme = ref.partition(":")[0]
    if scheme not in SCHEMES or (parsed := parse(ref, environ=environ, bus=bus)) is None:
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


def record_of(path: Path, tree_digest: str, notes: list[str]) -> BuildRecord | None:
    """Return the record of the build that made an image file, if it lies beside it and is of this tree.

    notes: is told why one that lies there is not used.
    """
    for file in sorted(path.absolute().parent.glob(f"*{RECORD_SUFFIX}")):
        if not path.name.startswith(file.name.removesuffix(RECORD_SUFFIX)):
            continue
        try:
            record = load(file)
        except BuildstepError as error:
            notes.append(f"the build record {file} is not used: {error.message}")
            continue
        if path.name in [artifact.name for artifact in record.artifacts]:
            if record.tree_digest == tree_digest:
                return record
            notes.append(f"the build record {file} is not used: it is of another tree than {path.name}")
    return None


def listable_file(record: BuildRecord) -> Path:
    """Return an image file of a build whose files can be listed; the two may have been moved together.

    Raises ImageError where there is none.
    """
    for artifact in record.artifacts:
        for path in (record.path.with_name(artifact.name), Path(artifact.path)):
            if path.exists() and kind_of(path) in SCHEMES:
                return path
    raise ImageError(
        f"{record.path} names no image file that is here and whose files can be listed",
        hint="give the image file itself, or build it again with --format tar or oci",
    )
