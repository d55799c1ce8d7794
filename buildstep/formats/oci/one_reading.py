"""Whether an OCI layout can be read in one way only, so that what is verified here is what others load.

A digest vouches for all that is under it. Nothing vouches for `index.json`, for the `manifest.json` that
`docker load` goes by, or for the archive around them: whoever adds to these has tools disagree about which
image there is. Tools in Go match the names of JSON members without regard to case, and take the last one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from buildstep.errors import ImageError
from buildstep.formats.archive_index import clean_name
from buildstep.formats.oci.layout import Layout
from buildstep.formats.oci.spec import MAX_DOCUMENT, REF_NAME
from buildstep.formats.tar_reader import headers

_INDEX: Final = "index.json"
_DOCKERS: Final = "manifest.json"
_HINT: Final = "other tools may take another image of it; get it again from whoever made it"

Blobs = tuple[str, ...]
"""An image by the hex digests of its configuration and its layers."""


def check(layout: Layout, path: Path, images: Collection[Blobs]) -> None:
    """Raise ImageError for a layout that others may read as another image. images: those that were verified;
    path: of the layout, a directory or a plain archive. Raises OSError."""
    if path.is_file():
        _check_members(layout, path)
    _check_index(layout, _read(layout, _INDEX))
    if layout.has(_DOCKERS):
        _check_dockers(layout, _read(layout, _DOCKERS), images)


def _check_members(layout: Layout, path: Path) -> None:
    """Look for members that are somewhere else, or something else, once they are extracted."""
    with path.open("rb") as stream:
        for member in headers(stream, size=path.stat().st_size, verified=True):
            name = member.name
            plain = name.removeprefix("./").rstrip("/") in (".", clean_name(name))
            if not plain or not (member.isdir() or member.islnk() or member.isreg()) or member.sparse:
                raise _ambiguous(layout, f"its member {name[:200]!r} is no plain file under a plain name")


def _check_index(layout: Layout, value: Any) -> None:
    rows = value.get("manifests") if isinstance(value, dict) else None
    known: dict[str, Any] = {}
    for row in rows if isinstance(rows, list) else ():
        notes = row.get("annotations") if isinstance(row, dict) else None
        name = notes.get(REF_NAME) if isinstance(notes, dict) else None
        if isinstance(name, str) and known.setdefault(name, row.get("digest")) != row.get("digest"):
            raise _ambiguous(layout, f"{_INDEX} has two images that are called {name[:200]!r}")


def _check_dockers(layout: Layout, value: Any, images: Collection[Blobs]) -> None:
    for row in value if isinstance(value, list) else ():
        named = [row.get("Config"), *(row.get("Layers") or ())] if isinstance(row, dict) else []
        if not all(isinstance(name, str) for name in named) or _blobs(named) not in images:
            raise _ambiguous(layout, f"{_DOCKERS}, which `docker load` reads, names another image")


def _blobs(names: Sequence[str]) -> Blobs:
    return tuple(name.removeprefix("blobs/sha256/") for name in names)


def _read(layout: Layout, name: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key.casefold() for key, _ in pairs}) != len(pairs):
            raise _ambiguous(layout, f"{name} has a member twice")
        return dict(pairs)

    try:
        return json.loads(layout.text(name, MAX_DOCUMENT), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{layout.label}: {name} is not JSON") from error


def _ambiguous(layout: Layout, why: str) -> ImageError:
    return ImageError(f"{layout.label} can be read in more than one way: {why}", hint=_HINT)
