"""OCI layouts that hold an image exactly as a builder has it, so that its id stays what it is.

The id of an image is the digest of its configuration. Converting an image of docker's format to OCI's writes
that anew: so it travels in the format that it has. containers/image keeps it in a `dir:`, a directory with
`manifest.json`, `version`, and a file named by the hex digest for each blob (containers-transports(5)).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from buildstep.components.interface import GraphError
from buildstep.errors import ImageError
from buildstep.formats.oci.layout import Layout, open_layout
from buildstep.formats.oci.spec import (
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    OciImage,
    media_type,
    parse_manifest,
)
from buildstep.system.digest import sha256_bytes

BLOBS: Final = "blobs/sha256"
_VERSION: Final = "Directory Transport Version: 1.1\n"


def write_index(layout: Path, kind: str, manifest: bytes) -> Descriptor:
    """Make a directory, which has the other blobs, a layout of one image; return the descriptor of it."""
    entry = Descriptor(media_type=kind, digest=f"sha256:{sha256_bytes(manifest)}", size=len(manifest))
    (layout / BLOBS).mkdir(parents=True, exist_ok=True)
    (layout / BLOBS / entry.hex).write_bytes(manifest)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json()]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return entry


def from_directory(folder: Path, layout: Path) -> None:
    """Make a layout of a `dir:` image, whose blobs are moved. Raises OSError, ImageError."""
    manifest = (folder / "manifest.json").read_bytes()
    (layout / BLOBS).mkdir(parents=True)
    for path in folder.iterdir():
        if path.name not in ("manifest.json", "version"):
            path.rename(layout / BLOBS / path.name)
    write_index(layout, media_type(manifest, OCI_MANIFEST), manifest)


def to_directory(layout: Path, folder: Path) -> None:
    """Make a `dir:` image of a layout, whose blobs are moved. Raises OSError, ImageError."""
    opened, image = only_image(layout)
    folder.mkdir()
    for blob in {it.digest: it for it in (*image.layers, image.config)}.values():
        opened.blob(blob).path.rename(folder / blob.hex)
    (folder / "manifest.json").write_bytes(image.document)
    (folder / "version").write_text(_VERSION)


def list_for_docker(layout: Path) -> None:
    """Add the list of images that `docker load` before version 25 wants, where there is none (moby, image
    specification v1.2). Raises OSError, ImageError."""
    path = layout / "manifest.json"
    if path.exists():
        return
    _, image = only_image(layout)
    names = [f"{BLOBS}/{blob.hex}" for blob in image.layers]
    row = {"Config": f"{BLOBS}/{image.config.hex}", "RepoTags": None, "Layers": names}
    path.write_text(json.dumps([row]))


def only_image(path: Path) -> tuple[Layout, OciImage]:
    """Open a layout, or an archive of one, and return its only image. Raises ImageError."""
    layout = open_layout(path, path.name)
    entry = layout.find("")
    data = layout.read(entry)
    if media_type(data, entry.media_type) not in MANIFESTS:
        raise ImageError(f"{path.name} has an index of images, not one image")
    return layout, parse_manifest(data, entry, path.name)


def check(layout: Path, image: str) -> None:
    """Raise GraphError for a layout that is not the image with this id; ImageError for what is no layout.

    Its manifest, and so the digests of all blobs, are read anew; the blobs are whoever's who wrote them.
    """
    _, found = only_image(layout)
    if found.config.digest != image:
        raise GraphError(f"the image {image[:19]} was wanted, and {found.config.digest[:19]} is there")
