"""The end of a build: image files, record and manifest, written aside and given their names together."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid as uuids
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from buildstep import __version__
from buildstep import emit as emit_module
from buildstep.build import steps
from buildstep.emit.interface import Artifact, Blob, EmitJob
from buildstep.errors import ImageError, UsageError
from buildstep.events import ArtifactWritten, Bus
from buildstep.formats import codecs
from buildstep.images.store import ImageRecord
from buildstep.pool.streams import NativeJob
from buildstep.report.parse import load
from buildstep.report.record import RECORD_SUFFIX, Audit, BuildRecord, ImageFile, Layer
from buildstep.report.recorder import Recorder
from buildstep.rootfs.packaging import Installed
from buildstep.spec import imgmanifest
from buildstep.spec.imgmanifest import uuid_of
from buildstep.spec.load import BuildSpec
from buildstep.system.host import min_platform
from buildstep.system.output_set import Outputs
from buildstep.tree.diff import Changes
from buildstep.tree.hashing import hash_entries, spread_digests


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """What a build made. manifest, record, files: under their final names; files as --json tells them."""

    uuid: str
    manifest: Path
    record: Path
    files: tuple[Mapping[str, Any], ...]
    tree_digest: str
    seconds: float
    recorder: Recorder

    def to_json(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {
            "uuid": self.uuid,
            "manifest": os.fspath(self.manifest),
            "record": os.fspath(self.record),
            "files": [dict(file) for file in self.files],
            "steps": [
                {"name": s.name, "state": s.state, "reason": s.reason, "seconds": round(s.seconds, 4)}
                for s in self.recorder.steps
            ],
            "tree_digest": self.tree_digest,
            "seconds": round(self.seconds, 3),
        }

    @property
    def paths(self) -> list[Path]:
        return [*(Path(file["path"]) for file in self.files), self.manifest, self.record]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shipment:
    """A finished tree and what is known of how it came to be. proto: the record's word on it;
    layers: those below the top one, complete when all is written."""

    spec: BuildSpec
    image: ImageRecord
    shot: steps.Snapshot
    root: Path
    layers: Sequence[Blob]
    installed: Installed | None
    build_id: str
    pool: str
    proto: dict[str, Any]
    entropy: tuple[str, ...] = ()
    native: NativeJob | None = None


def moment_of(spec: BuildSpec, recorder: Recorder) -> datetime:
    """The time an image says it was made: SOURCE_DATE_EPOCH, or when the build began."""
    epoch = spec.source_date_epoch
    return datetime.fromtimestamp(recorder.begin if epoch is None else epoch, UTC)


def emit(
    shipment: Shipment, more: Iterable[Blob], recorder: Recorder, outputs: Outputs, bus: Bus
) -> list[Artifact]:
    """Write every format under a temporary name; every file of the tree is hashed afterwards. more: layers
    between those of the shipment and the top one, made when they are asked for."""
    spec, shot = shipment.spec, shipment.shot
    job = EmitJob(
        tree=shot.entries,
        root=shipment.root,
        changes=shot.changes if shot.emitted is None else Changes(shot.emitted, ()),
        layers=tuple(shipment.layers),
        more=more,
        manifest=spec.manifest,
        config=asdict(spec.oci),
        base_config=shipment.image.config,
        compression=spec.compression,
        epoch=spec.source_date_epoch,
        created=moment_of(spec, recorder).strftime("%Y-%m-%dT%H:%M:%SZ"),
        stem=spec.output_dir / spec.basename,
        bus=bus,
        native=shipment.native,
    )
    artifacts = emit_module.emit(job, spec.formats, outputs)
    bus.count("bytes_hashed", hash_entries(shipment.root, shot.entries.values()))
    spread_digests(shot.entries)
    return artifacts


def final_manifest(
    spec: BuildSpec,
    image: ImageRecord,
    *,
    uuid: str,
    moment: datetime,
    file: Mapping[str, Any] | None,
    incremental: bool = False,
) -> dict[str, Any]:
    """The emitted manifest; without `file` it is only checked, before any work is done.

    Raises SpecError, and ImageError for a base that this host is too old or too new for.
    """
    here = min_platform(os.uname())
    for version, stamp in here.items():
        if faults := imgmanifest.check_platform(image.manifest, version, stamp):
            raise ImageError(
                f"the base image {image.label} is not for this machine",
                detail="\n".join(f"  {fault}" for fault in faults),
                hint="take an older base image, or build on an agent with another platform",
            )
    known = {key: image.manifest[key] for key in ("type", "os") if key in image.manifest}
    return imgmanifest.assemble(
        user={"type": "other", "os": "other", **known, **spec.manifest},
        origin=image.manifest,
        uuid=uuid,
        published_at=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        file=file,
        incremental=incremental,
        min_platform=here,
    )


def ship(
    shipment: Shipment, artifacts: list[Artifact], recorder: Recorder, outputs: Outputs, bus: Bus
) -> BuildResult:
    """Write record and manifest, then give every file its name, the manifest last."""
    spec, image = shipment.spec, shipment.image
    facts = shipment.shot.facts()
    moment = moment_of(spec, recorder)
    first = artifacts[0]
    # A build that repeats gives its image the same name for the same bytes; any other is a new image.
    if spec.manifest.get("uuid"):
        uuid = str(spec.manifest["uuid"])
    elif spec.source_date_epoch is not None:
        uuid = uuid_of(f"{spec.name}\n{spec.version}\n{first.sha256}")
    else:
        uuid = str(uuids.uuid4())
    incremental = bool(first.extra.get("incremental"))
    final = final_manifest(
        spec, image, uuid=uuid, moment=moment, file=_file_entry(first), incremental=incremental
    )
    stem = spec.output_dir / spec.basename
    record_path = stem.with_name(stem.name + RECORD_SUFFIX)
    manifest_path = stem.with_name(stem.name + ".imgmanifest")
    files = tuple(file_json(artifact) for artifact in artifacts)
    record = _record(shipment, recorder, files, uuid=uuid, facts=facts)
    outputs.write(record_path, json.dumps(record.to_json(), indent=2).encode() + b"\n")
    if spec.pkg_audit:
        audit = shipment.installed.audit if shipment.installed else None
        text = audit[0] if audit else "the image has no audit tool\n"
        outputs.write(stem.with_name(stem.name + ".pkgaudit"), text.encode())
    outputs.write(manifest_path, imgmanifest.dumps(final).encode())
    for path in _earlier(record_path):
        outputs.retire(path)
    outputs.commit()
    for artifact in artifacts:
        bus.emit(
            ArtifactWritten(
                path=os.fspath(artifact.path),
                format=artifact.format,
                size=artifact.size,
                sha256=artifact.sha256,
            )
        )
    return BuildResult(
        uuid=uuid,
        manifest=manifest_path,
        record=record_path,
        files=files,
        tree_digest=facts.digest,
        seconds=time.time() - recorder.begin,
        recorder=recorder,
    )


def _earlier(record: Path) -> list[Path]:
    """The files that the last build of this name left beside its record: all of them are its image's."""
    try:
        names = [file.name for file in load(record).artifacts]
    except UsageError:
        return []
    stem = record.name.removesuffix(RECORD_SUFFIX)
    paths = [record.with_name(name) for name in (*names, f"{stem}.pkgaudit") if name.startswith(f"{stem}.")]
    return [path for path in paths if path.is_file() or path.is_symlink()]


def file_json(artifact: Artifact) -> dict[str, Any]:
    """An image file as --json and the record tell it."""
    return {**asdict(artifact), "path": os.fspath(artifact.path), "extra": dict(artifact.extra)}


def _file_entry(artifact: Artifact) -> dict[str, Any]:
    """files[0] of the manifest. imgmanifest knows no zstd: such a file is, to it, not compressed."""
    compression = "none" if artifact.compression == "zstd" else artifact.compression
    guid = {"dataset_guid": artifact.extra["dataset_guid"]} if "dataset_guid" in artifact.extra else {}
    return {"size": artifact.size, "compression": compression, "sha1": artifact.sha1, **guid}


def _record(
    shipment: Shipment,
    recorder: Recorder,
    files: tuple[Mapping[str, Any], ...],
    *,
    uuid: str,
    facts: steps.Facts,
) -> BuildRecord:
    image, installed = shipment.image, shipment.installed
    audit = installed.audit if installed else None
    record = recorder.record(shipment.spec, shipment.build_id)
    base = {
        "uuid": image.uuid,
        "key": image.key,
        "label": image.label,
        "name": image.name,
        "version": image.version,
        "tree_digest": image.tree_digest,
        **image.inputs,
    }
    return replace(
        record,
        uuid=uuid,
        inputs={**record.inputs, "image": base, "proto": shipment.proto, "pool": shipment.pool},
        packages=installed.packages if installed else (),
        audit=Audit(text=audit[0], findings=audit[1]) if audit else None,
        entropy=shipment.entropy,
        layers=tuple(
            Layer(digest=blob.digest, diff_id=blob.diff_id, size=blob.size, comment=blob.comment)
            for blob in shipment.layers
        ),
        artifacts=tuple(ImageFile(**file) for file in files),
        files_added=tuple(facts.added),
        tree_digest=facts.digest,
        tools=tool_versions(shipment.spec),
    )


def tool_versions(spec: BuildSpec) -> dict[str, str]:
    """What made the image, by name: ourselves, Python, the kernel, and the codec libraries."""
    found = {"buildstep": __version__, "python": platform.python_version(), "kernel": platform.release()}
    for name in sorted({codec_of(spec, wanted) for wanted in spec.formats}):
        found[f"codec {name}"] = codecs.codec(name).ident
    return found


def codec_of(spec: BuildSpec, name: str) -> str:
    """The codec that a format is compressed with."""
    emitter = emit_module.EMITTERS.get(name)
    return spec.compression or (emitter.compressions[0] if emitter and emitter.compressions else "none")
