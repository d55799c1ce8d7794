"""oci:PATH[:TAG]. An image in an OCI layout, directory or archive, such as other tools export."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from buildstep.errors import ImageError
from buildstep.formats.oci.layout import Layout, open_layout
from buildstep.formats.oci.spec import OciPlatform, apply_layers, describe, document
from buildstep.images.interface import Identity, SourceContext, SourceImage


class Oci:
    """environ: BUILDSTEP_PLATFORM may name another platform than the machine's. It makes no HTTP calls."""

    scheme: ClassVar[str] = "oci"

    def __init__(self, environ: Mapping[str, str] = os.environ, *_limits: object) -> None:
        self._environ = environ

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        del hasher  # a layout names its content by digest
        layout, tag = _open(locator)
        image = layout.image(layout.find(tag), platform_of(self._environ))
        return Identity(key=f"oci:{image.manifest.digest}", label=f"oci:{Path(locator).name}")

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        layout, tag = _open(locator)
        image = layout.image(layout.find(tag), platform_of(self._environ))
        config = document(layout.read(image.config), f"{layout.label} config")
        entries = apply_layers([layout.open(layer) for layer in image.layers], into, context.apply_layer)
        name = re.sub(r"(\.oci)?\.tar$", "", Path(_path_and_tag(locator)[0]).name) or "base"
        return SourceImage(
            manifest=describe(image, config, name),
            inputs={
                "layout": str(Path(_path_and_tag(locator)[0]).absolute()),
                "digest": image.manifest.digest,
            },
            entries=entries,
            config=config,
        )


def platform_of(environ: Mapping[str, str]) -> OciPlatform:
    """Return the platform whose image is wanted where there are several."""
    named = environ.get("BUILDSTEP_PLATFORM", "")
    return OciPlatform.parse(named) if named else OciPlatform.here()


def _path_and_tag(locator: str) -> tuple[str, str]:
    """A path may have colons itself: the longest one that exists is meant."""
    if Path(locator).exists():
        return locator, ""
    path, colon, tag = locator.rpartition(":")
    if colon and path and Path(path).exists():
        return path, tag
    raise ImageError(f"there is no OCI layout {locator}", hint="oci:PATH[:TAG], PATH a directory or archive")


def _open(locator: str) -> tuple[Layout, str]:
    path, tag = _path_and_tag(locator)
    return open_layout(Path(path), f"oci:{Path(path).name}"), tag
