"""docker-archive:FILE[:NAME[:TAG]|:@NUMBER]. An image in an archive of `docker save`, compressed or not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from buildstep.errors import ImageError, UsageError
from buildstep.formats.docker_archive import DockerArchive, SavedImage, open_docker_archive
from buildstep.formats.oci.spec import apply_layers, describe
from buildstep.images.file_kind import check_kind, check_start
from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.images.sources import layer_files
from buildstep.images.sources.local_file import expanded, is_compressed, split, stem
from buildstep.net.registry import Reference

_SHOWN = 10


class DockerArchiveFile:
    """An image is chosen as skopeo does it: by a name of it, or by its place in the archive, from 0."""

    scheme: ClassVar[str] = "docker-archive"

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        """An image is the same in whatever archive; of a compressed one the file's digest is quicker."""
        path, wanted = _split(locator)
        label = f"docker-archive:{path.name}"
        if is_compressed(path):
            check_start(path, "docker-archive")
            return Identity(key=f"docker-archive:file:sha256:{hasher(path)}:{wanted}", label=label)
        archive = _open(path, path)
        config = archive.config(_find(archive, wanted))
        return Identity(key=f"docker-archive:{config.image_id}", label=label)

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        path, wanted = _split(locator)
        archive = _open(expanded(path, context.cache), path)
        image = _find(archive, wanted)
        config = archive.config(image)
        layers = [archive.layer(*layer) for layer in zip(image.layers, config.diff_ids, strict=True)]
        contents = layer_files.Contents(into)
        entries = apply_layers(layers, into, context.apply_layer, contents.count)
        name = _repository(image.tags[0]) if image.tags else ""
        return SourceImage(
            manifest=describe(config.document, name or stem(path), config.image_id.removeprefix("sha256:")),
            inputs={
                "file": str(path.absolute()),
                "image": config.image_id,
                **({"tag": wanted} if wanted else {}),
            },
            entries=entries,
            config=config.document,
            layers=layer_files.of_archive(
                config.diff_ids, [archive.place(name) for name in image.layers], contents
            ),
        )


def _split(locator: str) -> tuple[Path, str]:
    return split(locator, "archive of `docker save`", "docker-archive:FILE[:NAME[:TAG]|:@NUMBER]")


def _open(path: Path, named: Path) -> DockerArchive:
    """Open an archive. named: what the locator names, of which it may be an uncompressed copy."""
    try:
        if os.path.isdir(path):
            raise ImageError(f"{path} is a directory, not an archive of `docker save`")
        return open_docker_archive(path, f"docker-archive:{named.name}")
    except ImageError:
        check_kind(named, "docker-archive")
        raise


def _find(archive: DockerArchive, wanted: str) -> SavedImage:
    """Return the image of a name or number; without one, the only image. Raises ImageError."""
    images = archive.images()
    if not wanted:
        if len(images) == 1:
            return images[0]
        problem = f"has {len(images)} images, and none was named"
    elif wanted.startswith("@"):
        number = wanted[1:]
        if number.isascii() and number.isdigit() and int(number) < len(images):
            return images[int(number)]
        problem = f"has no image {wanted}"
    else:
        for image in images:
            if any(_normal(tag) == _normal(wanted) for tag in image.tags):
                return image
        problem = f"has no image {wanted!r}"
    names = [image.tags[0] if image.tags else f"@{number}" for number, image in enumerate(images)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise ImageError(f"{archive.label} {problem}", hint=f"it has {', '.join(names[:_SHOWN])}{more}")


def _normal(name: str) -> str:
    """Return an image's name in full, as registries and Docker take a short one."""
    try:
        return str(Reference.parse(name))
    except UsageError:
        return name


def _repository(tag: str) -> str:
    try:
        return Reference.parse(tag).repository.rpartition("/")[2]
    except UsageError:
        return ""
