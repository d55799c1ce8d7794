"""The layers of an image as they came, for images that are made from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from buildstep.cache.base_layers import BaseLayer
from buildstep.formats.decompress import MAGIC_SIZE, compression_of
from buildstep.formats.oci.spec import OCI_LAYER, OciImage
from buildstep.images.interface import LayerFile
from buildstep.rootfs.installers.package_database import FILES, named, packages_in
from buildstep.rootfs.interface import Package
from buildstep.system.digest import sha256_slice
from buildstep.system.files import Slice
from buildstep.system.root import Root
from buildstep.tree.diff import Brought, diff
from buildstep.tree.entry import FileList

_DIFF_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
_DATABASES: Final = tuple(path.lstrip("/").encode() for path in FILES)
_SUFFIXES: Final[Mapping[str, str]] = {"": "", "gzip": "+gzip", "zstd": "+zstd"}
"""How OCI marks what a layer is compressed with; it has no others."""


class Contents:
    """What each layer of an image brings, counted while they are applied. into: where that is."""

    def __init__(self, into: Path) -> None:
        self._root = Root(into)
        self._packages: tuple[Package, ...] = ()
        self.rows: list[tuple[Brought, tuple[str, ...]]] = []
        """Of each layer so far; see `BaseLayer`."""

    def count(self, before: FileList, after: FileList) -> None:
        """Take the next layer, by the entries before it and with it."""
        changes = diff(before, after)
        packages = self._packages
        touched = [entry.path for entry in changes.entries] + list(changes.removed)
        if any(path.startswith(_DATABASES) for path in touched):
            packages = packages_in(self._root)
        self.rows.append((changes.brought(), named(packages, self._packages)))
        self._packages = packages


def of_descriptors(
    image: OciImage,
    config: Mapping[str, Any],
    places: Sequence[Slice],
    contents: Contents,
    *,
    own: bool = False,
) -> tuple[LayerFile, ...]:
    """Return the layers of an image whose manifest names them by digest, which was compared.

    None of them where the configuration does not have a digest of each uncompressed layer.
    """
    return _files([layer.hex for layer in image.layers], _diff_ids(config), places, contents, own=own)


def of_archive(diff_ids: Sequence[str], places: Sequence[Slice], contents: Contents) -> tuple[LayerFile, ...]:
    """Return the layers of an archive of `docker save`, whose names do not tell the digests of its files."""
    digests = []
    for place, diff_id in zip(places, diff_ids, strict=True):
        plain = _suffix(place) == ""
        digests.append(diff_id.removeprefix("sha256:") if plain else sha256_slice(place))
    return _files(digests, diff_ids, places, contents, own=False)


def _files(
    digests: Sequence[str],
    diff_ids: Sequence[str],
    places: Sequence[Slice],
    contents: Contents,
    *,
    own: bool,
) -> tuple[LayerFile, ...]:
    found = []
    suffixes = [_suffix(place) for place in places]
    if len(diff_ids) != len(places) or None in suffixes:
        return ()
    rows = zip(digests, diff_ids, places, suffixes, contents.rows, strict=True)
    for digest, diff_id, place, suffix, (brought, packages) in rows:
        layer = BaseLayer(
            digest=digest,
            size=place.size,
            media_type=f"{OCI_LAYER}{suffix}",
            diff_id=diff_id.removeprefix("sha256:"),
            brought=brought,
            packages=packages,
        )
        found.append(LayerFile(layer=layer, place=place, own=own))
    return tuple(found)


def _suffix(place: Slice) -> str | None:
    """Return what a layer's type ends in, by its content; None for what no OCI image can have."""
    with place.path.open("rb") as file:
        file.seek(place.offset)
        start = file.read(min(MAGIC_SIZE, place.size))
    return _SUFFIXES.get(compression_of(start))


def _diff_ids(config: Mapping[str, Any]) -> Sequence[str]:
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if isinstance(found, list) and all(isinstance(item, str) and _DIFF_ID.fullmatch(item) for item in found):
        return found
    return ()
