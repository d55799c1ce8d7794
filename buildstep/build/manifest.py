"""The image's manifest: checked before the work, and written after it."""

from __future__ import annotations

import os
import uuid as uuids
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from buildstep.emit.interface import Artifact
from buildstep.errors import ImageError
from buildstep.images.store import ImageRecord
from buildstep.report.recorder import Recorder
from buildstep.spec import imgmanifest
from buildstep.spec.load import BuildSpec
from buildstep.system.host import min_platform


def creation_time(spec: BuildSpec, recorder: Recorder) -> datetime:
    """Return the time an image says it was made: SOURCE_DATE_EPOCH, or when the build began."""
    epoch = spec.source_date_epoch
    return datetime.fromtimestamp(recorder.begin if epoch is None else epoch, UTC)


def timestamp(spec: BuildSpec, recorder: Recorder) -> str:
    """Return that time as manifests have it."""
    return creation_time(spec, recorder).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_manifest(spec: BuildSpec, image: ImageRecord, recorder: Recorder) -> None:
    """Check what the base brings into the manifest, before any work is done.

    Raises SpecError, and ImageError for a base that this host is too old or too new for.
    """
    _assemble(spec, image, uuid=str(uuids.UUID(int=0)), published_at=timestamp(spec, recorder), file=None)


def final_manifest(
    spec: BuildSpec, image: ImageRecord, recorder: Recorder, artifact: Artifact
) -> dict[str, Any]:
    """Return the manifest of a finished image. artifact: the first of its files."""
    return _assemble(
        spec,
        image,
        uuid=_image_uuid(spec, artifact),
        published_at=timestamp(spec, recorder),
        file=_file_entry(artifact),
        incremental=bool(artifact.extra.get("incremental")),
    )


def _assemble(
    spec: BuildSpec,
    image: ImageRecord,
    *,
    uuid: str,
    published_at: str,
    file: Mapping[str, Any] | None,
    incremental: bool = False,
) -> dict[str, Any]:
    here = min_platform(os.uname())
    for version, stamp in here.items():
        if faults := imgmanifest.check_platform(image.manifest, version, stamp):
            raise ImageError(
                f"the base image {image.label} is not for this machine",
                detail="\n".join(f"  {fault}" for fault in faults),
                hint="use an older base image, or build on a host with another platform",
            )
    known = {key: image.manifest[key] for key in ("type", "os") if key in image.manifest}
    return imgmanifest.assemble(
        user={"type": "other", "os": "other", **known, **spec.manifest},
        origin=image.manifest,
        uuid=uuid,
        published_at=published_at,
        file=file,
        incremental=incremental,
        min_platform=here,
    )


def _image_uuid(spec: BuildSpec, artifact: Artifact) -> str:
    """A build that repeats gives its image the same uuid for the same bytes; any other is a new image."""
    if spec.manifest.get("uuid"):
        return str(spec.manifest["uuid"])
    if spec.source_date_epoch is not None:
        return imgmanifest.uuid_of(f"{spec.name}\n{spec.version}\n{artifact.sha256}")
    return str(uuids.uuid4())


def _file_entry(artifact: Artifact) -> dict[str, Any]:
    """files[0] of the manifest. imgmanifest knows no zstd: to it, such a file is not compressed.

    Of an image that is a directory it is the index of that: a file that really has this size and SHA-1, and
    from which every byte of the image can be verified.
    """
    compression = "none" if artifact.compression == "zstd" else artifact.compression
    guid = {"dataset_guid": artifact.extra["dataset_guid"]} if "dataset_guid" in artifact.extra else {}
    size = artifact.extra.get("index_size", artifact.size)
    return {"size": size, "compression": compression, "sha1": artifact.sha1, **guid}
