"""Which image of the graph a reference means, and what images get from the ONBUILD of those they are made
from."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import replace

from buildstep.components.interface import Image, ReadOptions, Reference


def find_image(text: str, images: Collection[str], options: ReadOptions, platform: str = "") -> str | None:
    """Return the image of the graph that a reference means, None for one that comes from elsewhere.

    It means one without a tag, or with one of `options.tags`; a digest or another tag says that a certain
    image is wanted, which is not the one that is built now. platform: of the image that has the reference,
    empty for this machine's: of an image for several platforms it means that one.
    """
    if (found := _found(text, images, platform)) is not None:
        return found
    if prefix := max((prefix for prefix in options.prefixes if text.startswith(prefix)), key=len, default=""):
        text = text.removeprefix(prefix)
        if (found := _found(text, images, platform)) is not None:
            return found
    name, _, tag = text.rpartition(":")
    return _found(name, images, platform) if tag in options.tags else None


def _found(name: str, images: Collection[str], platform: str) -> str | None:
    if name in images:
        return name if "@" not in name else None
    its = f"{name}@{platform or _here()}"
    return its if its in images else None


@functools.cache
def _here() -> str:
    from buildstep.formats.oci.spec import OciPlatform

    return str(OciPlatform.here())


def store_name(image: str) -> str:
    """Return the name of an image of the graph in a builder's store: each platform has a tag of its own."""
    name, at, platform = image.partition("@")
    return f"{name}:{platform.replace('/', '-')}" if at else name


def base_key(text: str, platform: str) -> str:
    """Return what stands for a base image from elsewhere, of a platform; empty for the builder's own."""
    return f"{platform} {text}" if platform else text


def with_triggers(image: Image, images: Mapping[str, Image], options: ReadOptions) -> Image:
    """Return an image with what the ONBUILD of its bases in the graph does in it: it needs the images that
    they name there, and copies what they copy.

    A trigger acts in the images that name its own in FROM, and in none of those made from these.
    """
    bases, copies = list(image.bases), set(image.copies)
    for base in image.bases:
        name = find_image(base.text, images, options, image.platform) if base.how == "FROM" else None
        if name is not None and name != image.name:
            given = images[name].onbuild
            bases += [Reference(row.text, f"{row.how} of {name}", 0) for row in given.bases]
            copies.update(row.text for row in given.copies)
    if len(bases) == len(image.bases) and copies == set(image.copies):
        return image
    return replace(image, bases=tuple(bases), copies=tuple(sorted(copies)))
