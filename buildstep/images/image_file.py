"""Image files, from a repository or from here: what a pool can do with them, and doing it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

from buildstep.errors import ImageError
from buildstep.images.file_kind import FileKind, kind_of
from buildstep.images.interface import SourceContext, SourceImage
from buildstep.images.resolve import Arriving, Fetched
from buildstep.images.sources import zfs_file
from buildstep.images.sources.oci import Oci
from buildstep.pool.interface import Backend, Dataset
from buildstep.pool.streams import NativeStreams
from buildstep.system.digest import Digests, Expected, HashingReader
from buildstep.tree.entry import FileList

Put = Callable[[str, SourceContext], tuple[Dataset, SourceImage]]
"""Makes a working dataset of this name that holds an image's tree."""


def receives_zfs(backend: Backend) -> bool:
    """Whether the pool takes ZFS streams as they are."""
    return isinstance(backend, NativeStreams) and backend.stream_format == "zfs"


def usable_kind(backend: Backend, path: Path, manifest: Mapping[str, Any]) -> FileKind:
    """What a file holds. Raises ImageError for what this pool can do nothing with."""
    kind = kind_of(path)
    refuse_unusable(backend, kind, path, manifest)
    return kind


def refuse_unusable(backend: Backend, kind: FileKind, path: Path, manifest: Mapping[str, Any]) -> None:
    """Raises ImageError for what this pool can do nothing with."""
    if kind == "zfs" and not receives_zfs(backend):
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


def put_file(
    backend: Backend,
    path: Path,
    manifest: Mapping[str, Any],
    kind: FileKind,
    inputs: Mapping[str, str],
    *,
    environ: Mapping[str, str],
    expected: Expected | None = None,
) -> Put:
    """How an image file becomes a dataset. expected: what it has to be, where that is not proved yet."""

    def put(ident: str, context: SourceContext) -> tuple[Dataset, SourceImage]:
        if kind == "zfs":  # proves the file itself
            dataset = zfs_file.receive_image(backend, ident, path, manifest)
            return dataset, SourceImage(manifest=manifest, inputs=inputs)
        dataset = backend.create(ident)
        with path.open("rb") as file:
            proof = HashingReader(file)
            if kind == "tar":
                entries: FileList | None = context.unpack(cast(IO[bytes], proof), dataset.path)
                config: Mapping[str, Any] = {}
            else:
                image = Oci(environ).fetch(os.fspath(path), dataset.path, context)
                entries, config = image.entries, image.config
            if expected is not None:
                _compare(path, proof.finish(), expected)
        return dataset, SourceImage(manifest=manifest, inputs=inputs, entries=entries, config=config)

    return put


def put_arriving(backend: Backend, arriving: Arriving) -> Put:
    """How an archive becomes a dataset while it comes; it is proved when it has come."""

    def put(ident: str, context: SourceContext) -> tuple[Dataset, SourceImage]:
        dataset = backend.create(ident)
        entries = context.unpack(cast(IO[bytes], arriving), dataset.path)
        fetched = arriving.prove()
        return dataset, SourceImage(manifest=fetched.manifest, inputs=inputs_of(fetched), entries=entries)

    return put


def inputs_of(fetched: Fetched) -> dict[str, str]:
    """Where a file came from and what it was, for the image's record."""
    return {"source": fetched.source, "sha1": fetched.file.sha1, "sha256": fetched.file.sha256}


def _compare(path: Path, real: Digests, expected: Expected) -> None:
    """Raise ImageError when a file is not what its manifest says."""
    if wrong := expected.mismatches(real):
        raise ImageError(
            f"{path} is not the file of its manifest", detail="\n".join(wrong), hint="fetch it again"
        )
