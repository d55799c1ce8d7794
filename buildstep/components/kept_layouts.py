"""Images that our own pipeline made, as it made them: what is pushed without asking a builder for it.

    STATE/layouts/NAME    the layout of the last image of this name; NAME is a digest of the image's name

A builder that is asked for an image packs and compresses its layers again. Here they have the digests that
they had before, so that a registry is only sent those that changed. The files are other names of the pool's,
where that can be (`system.share`).
"""

from __future__ import annotations

import os
from pathlib import Path

from buildstep.components import exact_layout
from buildstep.errors import ImageError
from buildstep.system.digest import sha256_bytes
from buildstep.system.private import private_dir
from buildstep.system.remove import remove_tree
from buildstep.system.share import share


def keep(folder: Path, name: str, layout: Path) -> None:
    """Keep a layout in place of the last one of this image. Raises OSError, DatasetError."""
    final = _place(folder, name)
    new = final.with_suffix(".new")
    remove_tree(new)
    private_dir(folder)
    for above, _, files in os.walk(layout):
        inner = new / os.path.relpath(above, layout)
        inner.mkdir()
        for file in files:
            share(Path(above, file), inner / file, link=True)
    remove_tree(final)
    new.rename(final)


def find(folder: Path | None, name: str, image: str) -> Path | None:
    """Return the layout of an image by its name and its id; None where another one, or none, is kept."""
    place = _place(folder, name) if folder is not None else None
    try:
        if place is None or exact_layout.only_image(place)[1].config.digest != image:
            return None
    except ImageError:
        return None
    return place


def _place(folder: Path, name: str) -> Path:
    return folder / sha256_bytes(name.encode(errors="surrogateescape"))[:32]
