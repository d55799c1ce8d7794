"""oci:PATH[:TAG]. An image in an OCI layout, directory or archive, such as other tools export."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from buildstep.errors import ImageError
from buildstep.formats.oci.layout import Layout, open_layout
from buildstep.formats.oci.spec import ANNOTATION, OciPlatform, apply_layers, describe, document
from buildstep.images.file_kind import check_kind, check_start
from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.images.sources import layer_files
from buildstep.images.sources.local_file import expanded, is_compressed, split, stem


class Oci:
    """environ: BUILDSTEP_PLATFORM may name another platform than the machine's. It makes no HTTP calls."""

    scheme: ClassVar[str] = "oci"

    def __init__(self, environ: Mapping[str, str] = os.environ, *_limits: object) -> None:
        self._environ = environ

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        """A layout names its content by digest; of a compressed archive the file's own digest is quicker."""
        path, tag = _split(locator)
        label, wanted = f"oci:{path.name}", platform_of(self._environ)
        if is_compressed(path):
            check_start(path, "oci")
            return Identity(key=f"oci:file:sha256:{hasher(path)}:{tag}:{wanted}", label=label)
        layout = _open(path, path)
        return Identity(key=f"oci:{layout.image(layout.find(tag), wanted).manifest.digest}", label=label)

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        path, tag = _split(locator)
        layout = _open(expanded(path, context.cache), path)
        image = layout.image(layout.find(tag), platform_of(self._environ))
        config = document(layout.read(image.config), f"{layout.label} config")
        contents = layer_files.Contents(into)
        layers = [layout.open(layer) for layer in image.layers]
        entries = apply_layers(layers, into, context.apply_layer, contents.count)
        name, title = stem(path), image.annotations.get(f"{ANNOTATION}title", "")
        # A file that is named as its image and the version of it, as we name ours.
        name = title if title and name.startswith(f"{title}-") else name
        return SourceImage(
            manifest=describe(config, name, image.manifest.hex, image.annotations),
            inputs={
                "layout": str(path.absolute()),
                "digest": image.manifest.digest,
                **({"tag": tag} if tag else {}),
            },
            entries=entries,
            config=config,
            layers=layer_files.of_descriptors(
                image, config, [layout.blob(layer) for layer in image.layers], contents
            ),
        )


def platform_of(environ: Mapping[str, str]) -> OciPlatform:
    """Return the platform whose image is wanted where there are several."""
    named = environ.get("BUILDSTEP_PLATFORM", "")
    return OciPlatform.parse(named) if named else OciPlatform.here()


def _split(locator: str) -> tuple[Path, str]:
    return split(locator, "OCI layout", "oci:PATH[:TAG], PATH a directory or archive")


def _open(path: Path, named: Path) -> Layout:
    """Open a layout. named: what the locator names, of which an archive may be an uncompressed copy."""
    try:
        return open_layout(path, f"oci:{named.name}")
    except ImageError:
        check_kind(named, "oci")
        raise
