"""Whether a pool can take an image's file, told before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildstep.errors import ImageError
from buildstep.images.file_kind import FileKind
from buildstep.images.sources import zfs_file
from buildstep.pool.interface import Backend


def refuse_unusable(backend: Backend, kind: FileKind, path: Path, manifest: Mapping[str, Any]) -> None:
    """Raise ImageError for a file that this pool cannot import."""
    if kind == "zfs" and not zfs_file.can_receive(backend):
        raise zfs_file.refused(path)
    if kind == "btrfs":
        raise ImageError(
            f"{path.name} is a btrfs stream, which cannot be imported", hint="publish the image as oci or tar"
        )
    if kind == "tar" and manifest.get("type") == "docker" and manifest.get("origin"):
        raise ImageError(
            f"image {manifest['uuid']} is one layer of a Docker image",
            hint="import the whole of it from its registry: docker://HOST/NAME",
        )
