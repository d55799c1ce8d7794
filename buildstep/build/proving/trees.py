"""The trees of two builds: their lists, and the content of files that differ."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from buildstep.events import Bus
from buildstep.formats.tree_writer import Lister
from buildstep.images.listing import listed
from buildstep.tree.entry import FileList

LISTED = ("tar", "oci", "oci-dir", "docker-archive")
"""Formats whose files can be listed, the quickest first. The others are dataset streams."""

_LARGEST = 16 << 20
"""Bytes of a file that is looked into: a difference in a larger one is told, and not explained."""


def formats_for(formats: Sequence[str]) -> tuple[str, ...]:
    """Return the formats that a build is to write, so that its tree can be listed."""
    return tuple(formats) if set(formats) & set(LISTED) else (*formats, "tar")


def file_of(files: Sequence[Mapping[str, Any]]) -> Path | None:
    """Return that of some image files whose tree can be listed."""
    by_format = {str(file["format"]): Path(file["path"]) for file in files}
    return next((by_format[name] for name in LISTED if name in by_format), None)


def entries_of(path: Path, bus: Bus, environ: Mapping[str, str]) -> FileList:
    """Return the list of an image file, with times. Raises ImageError."""
    with contextlib.ExitStack() as stack:
        _, found = listed(str(path), Lister(lambda _path: False), stack, bus, environ)
        return dict(found.entries or {})


def contents_of(
    path: Path, wanted: Collection[bytes], bus: Bus, environ: Mapping[str, str]
) -> dict[bytes, bytes]:
    """Return the content of some files of an image file, as far as it is not too large."""
    lister = Lister(lambda name: name in wanted, largest=_LARGEST)
    with contextlib.ExitStack() as stack:
        _, found = listed(str(path), lister, stack, bus, environ)
        entries = found.entries or {}
        rows = {name: lister.content(entries[name]) for name in wanted if name in entries}
    return {name: data for name, data in rows.items() if data is not None}
