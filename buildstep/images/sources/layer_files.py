"""The layers of an image as they came, for images that are made from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from buildstep.cache.base_layers import BaseLayer
from buildstep.formats.decompress import MAGIC_SIZE, compression_of
from buildstep.formats.oci.spec import OCI_LAYER, Descriptor
from buildstep.images.interface import LayerFile
from buildstep.system.digest import sha256_slice
from buildstep.system.files import Slice

_DIFF_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
_SUFFIXES: Final[Mapping[str, str]] = {"": "", "gzip": "+gzip", "zstd": "+zstd"}
"""How OCI marks what a layer is compressed with; it has no others."""


def of_descriptors(
    layers: Sequence[Descriptor], config: Mapping[str, Any], places: Sequence[Slice], *, own: bool = False
) -> tuple[LayerFile, ...]:
    """Return the layers of an image whose manifest names them by digest, which was compared.

    None of them where the configuration does not have a digest of each uncompressed layer.
    """
    return _files([layer.hex for layer in layers], _diff_ids(config), places, own=own)


def of_archive(diff_ids: Sequence[str], places: Sequence[Slice]) -> tuple[LayerFile, ...]:
    """Return the layers of an archive of `docker save`, whose names do not tell the digests of its files."""
    digests = []
    for place, diff_id in zip(places, diff_ids, strict=True):
        plain = _suffix(place) == ""
        digests.append(diff_id.removeprefix("sha256:") if plain else sha256_slice(place))
    return _files(digests, diff_ids, places, own=False)


def _files(
    digests: Sequence[str], diff_ids: Sequence[str], places: Sequence[Slice], *, own: bool
) -> tuple[LayerFile, ...]:
    found = []
    suffixes = [_suffix(place) for place in places]
    if len(diff_ids) != len(places) or None in suffixes:
        return ()
    for digest, diff_id, place, suffix in zip(digests, diff_ids, places, suffixes, strict=True):
        layer = BaseLayer(
            digest=digest,
            size=place.size,
            media_type=f"{OCI_LAYER}{suffix}",
            diff_id=diff_id.removeprefix("sha256:"),
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
