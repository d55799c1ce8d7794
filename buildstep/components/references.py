"""Which image of the graph a reference means, and what images get from the ONBUILD of those they are made
from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from buildstep.components.interface import Image, ReadOptions, Reference


def find_image(text: str, images: Collection[str], options: ReadOptions) -> str | None:
    """Return the image of the graph that a reference means, None for one that comes from elsewhere.

    It means one without a tag, or with one of `options.tags`; a digest or another tag says that a certain
    image is wanted, which is not the one that is built now.
    """
    if text in images:
        return text
    if prefix := max((prefix for prefix in options.prefixes if text.startswith(prefix)), key=len, default=""):
        text = text.removeprefix(prefix)
        if text in images:
            return text
    name, _, tag = text.rpartition(":")
    return name if name in images and tag in options.tags else None


def with_triggers(image: Image, images: Mapping[str, Image], options: ReadOptions) -> Image:
    """Return an image with what the ONBUILD of its bases in the graph does in it: it needs the images that
    they name there, and copies what they copy.

    A trigger acts in the images that name its own in FROM, and in none of those made from these.
    """
    bases, copies = list(image.bases), set(image.copies)
    for base in image.bases:
        name = find_image(base.text, images, options) if base.how == "FROM" else None
        if name is not None and name != image.name:
            given = images[name].onbuild
            bases += [Reference(row.text, f"{row.how} of {name}", 0) for row in given.bases]
            copies.update(row.text for row in given.copies)
    if len(bases) == len(image.bases) and copies == set(image.copies):
        return image
    return replace(image, bases=tuple(bases), copies=tuple(sorted(copies)))
