"""Read an archive of `docker save`, as Docker, podman, skopeo, kaniko, jib, ko, Bazel and Nix write it.

Its `manifest.json` is a list with a row for each image: `RepoTags`, and `Config` and `Layers` as names of
files in the archive (moby, image specification v1.2, "Combined Image JSON + Filesystem Changeset Format").
The layers are not named by a digest, but the configuration has one for each, of the uncompressed tar.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeGuard, cast

from buildstep.errors import ImageError
from buildstep.formats.archive_index import ArchiveIndex, read_index, read_slice
from buildstep.formats.decompress import Decompressed
from buildstep.formats.oci.spec import MAX_DOCUMENT, document
from buildstep.formats.unpack import Limits
from buildstep.system.digest import HashingReader
from buildstep.system.files import CHUNK, Slice, SliceReader
from buildstep.system.text import HALF

MANIFEST = "manifest.json"
_NAMED_BY_DIGEST = re.compile(r"(?:.*/)?(?:sha256:)?([0-9a-f]{64})(?:\.json)?")
_DIFF_ID = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedImage:
    """One image of an archive. config, layers: names of its files, the lowest layer first."""

    tags: tuple[str, ...]
    config: str
    layers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedConfig:
    """An image's configuration. image_id: its digest, and so the image's; diff_ids: its layers' digests."""

    image_id: str
    document: dict[str, Any]
    diff_ids: tuple[str, ...]


class SavedLayer:
    """A layer's plain tar, hashed while it is read. See `buildstep.formats.oci.spec.LayerStream`."""

    def __init__(self, stream: Decompressed, name: str, diff_id: str) -> None:
        self._reader = HashingReader(cast("IO[bytes]", stream), "sha256")
        self._name, self._diff_id = name, diff_id

    def read(self, size: int = -1, /) -> bytes:
        return self._reader.read(CHUNK if size < 0 else size)

    def verify(self) -> None:
        """Read the rest. Raises ImageError where the layer is not the one of its configuration."""
        if f"sha256:{self._reader.finish().sha256}" != self._diff_id:
            raise ImageError(f"{self._name} is damaged: it is not the layer {self._diff_id} of its image")


class DockerArchive:
    """An archive of `docker save`, uncompressed. Use `open_docker_archive`."""

    def __init__(self, label: str, index: ArchiveIndex) -> None:
        self.label, self._index = label, index

    def images(self) -> list[SavedImage]:
        """Return the images in the archive's order. Raises ImageError."""
        return images_of(self._small(MANIFEST), f"{self.label} {MANIFEST}")

    def config(self, image: SavedImage) -> SavedConfig:
        """Return an image's configuration. Raises ImageError for one that is damaged or has no diff_ids."""
        data = self._small(image.config)
        where = f"{self.label} {image.config}"
        digest = hashlib.sha256(data).hexdigest()
        named = _NAMED_BY_DIGEST.fullmatch(image.config)
        if named and named[1] != digest:
            raise ImageError(f"{where} is damaged: its content has another digest")
        found = document(data, where)
        rootfs = found.get("rootfs")
        rows = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(rows, list) or not all(isinstance(r, str) and _DIFF_ID.fullmatch(r) for r in rows):
            raise ImageError(f"{where} has no list of its layers' digests (rootfs.diff_ids)")
        if len(rows) != len(image.layers):
            raise ImageError(f"{where} has {len(rows)} diff_ids for {len(image.layers)} layers")
        return SavedConfig(image_id=f"sha256:{digest}", document=found, diff_ids=tuple(rows))

    @contextlib.contextmanager
    def layer(self, name: str, diff_id: str) -> Iterator[SavedLayer]:
        """Open a layer, compressed or not; the caller calls its `verify` before using its content."""
        place = self.place(name)
        with place.path.open("rb") as file:
            packed = cast("IO[bytes]", SliceReader(file, place.offset, place.size))
            with Decompressed(packed, ratio=Limits().ratio) as stream:
                yield SavedLayer(stream, f"{self.label} {name}", diff_id)

    def place(self, name: str) -> Slice:
        """Return where a file of the archive is. Raises ImageError."""
        place = self._index.get(name)
        if place is None:
            raise ImageError(f"{self.label} has no {name}", hint="is it complete? save the image again")
        return place

    def _small(self, name: str) -> bytes:
        return read_slice(self.place(name), f"{self.label} {name}", limit=MAX_DOCUMENT)


def images_of(data: bytes, where: str) -> list[SavedImage]:
    """Parse a `manifest.json`. Raises ImageError, naming `where`, for anything else, an OCI manifest too."""
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{where} is not JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ImageError(f"{where} is not the list of images that `docker save` writes")
    return [_image(row, f"{where} [{number}]") for number, row in enumerate(rows)]


def _image(row: object, where: str) -> SavedImage:
    fields = row if isinstance(row, dict) else {}
    config, layers, tags = fields.get("Config"), fields.get("Layers"), fields.get("RepoTags") or []
    if not _are_texts([config]) or not _are_texts(layers) or not _are_texts(tags):
        raise ImageError(f"{where} is no image with Config, RepoTags and Layers")
    return SavedImage(tags=tuple(tags), config=str(config), layers=tuple(layers))


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) and not HALF.search(item) for item in value)


def open_docker_archive(path: Path, label: str) -> DockerArchive:
    """Open an uncompressed archive. Raises ImageError, also for one without a `manifest.json`."""
    try:
        index = read_index(path, label)
    except OSError as error:
        raise ImageError(f"cannot read {label}: {error.strerror}") from error
    if index.get(MANIFEST) is None:
        raise ImageError(
            f"{label} has no {MANIFEST}",
            hint="Docker before 1.10 wrote none: load the image and save it again",
        )
    return DockerArchive(label, index)
