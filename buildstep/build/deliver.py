"""The end of a build: record and manifest, and every output given its name, the manifest last."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep import emit
from buildstep.build import (
    cache_inputs,
    layer_contents,
    private_words,
    proto_check,
    recorded_proto,
    size_gate,
)
from buildstep.build.context import BuildContext, BuildState, report_failure
from buildstep.build.manifest import final_manifest
from buildstep.cache import outputs as kept_outputs
from buildstep.emit.interface import Artifact
from buildstep.errors import UsageError
from buildstep.events import ArtifactWritten
from buildstep.report.parse import load
from buildstep.report.record import RECORD_SUFFIX, Audit, BuildRecord, ImageFile
from buildstep.report.recorder import Recorder
from buildstep.spec import imgmanifest
from buildstep.tree.proto_changes import explain
from buildstep.trust import sidecars

if TYPE_CHECKING:
    from buildstep.build.shared_put import Uploads


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """What a build made. manifest, record, files: under their final names; files as --json has them; uploads:
    what is to be put into the shared cache now; sidecars: files beside the image that prove it."""

    uuid: str
    manifest: Path
    record: Path
    files: tuple[Mapping[str, Any], ...]
    tree_digest: str
    seconds: float
    recorder: Recorder
    uploads: Uploads | None = None
    sidecars: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        return {
            "uuid": self.uuid,
            "manifest": os.fspath(self.manifest),
            "record": os.fspath(self.record),
            "files": [dict(file) for file in self.files],
            **({"trust": [os.fspath(path) for path in self.sidecars]} if self.sidecars else {}),
            "steps": [
                {"name": s.name, "state": s.state, "reason": s.reason, "seconds": round(s.seconds, 4)}
                for s in self.recorder.steps
            ],
            "tree_digest": self.tree_digest,
            "seconds": round(self.seconds, 3),
        }

    @property
    def paths(self) -> list[Path]:
        """Every file, the image files first."""
        return [*self.of_image, *self.sidecars]

    @property
    def of_image(self) -> list[Path]:
        """The image files, and what describes them: without these it is not whole."""
        return [*(Path(file["path"]) for file in self.files), self.manifest, self.record]


def earlier_result(
    context: BuildContext, facts: Mapping[str, Any], sidecars: tuple[Path, ...] = ()
) -> BuildResult:
    """Return what an earlier build wrote that is still valid. facts: see `outputs.find`; sidecars: what goes
    beside it."""
    kept_outputs.touch(context.backend.state, str(facts["key"]))
    return BuildResult(
        uuid=facts["uuid"],
        manifest=Path(facts["manifest"]),
        record=Path(facts["record"]),
        files=tuple(facts["files"]),
        tree_digest=facts["tree_digest"],
        seconds=time.time() - context.recorder.begin,
        recorder=context.recorder,
        sidecars=sidecars,
    )


def deliver(context: BuildContext, state: BuildState) -> BuildResult:
    """Write record and manifest, then give every file its name, the manifest last. Raises EmitError where the
    proto directory changed meanwhile."""
    spec, outputs, recorder = context.spec, context.outputs, context.recorder
    manifest = final_manifest(spec, state.image, recorder, emit.main_artifact(state.artifacts))
    record_path = context.stem.with_name(context.stem.name + RECORD_SUFFIX)
    manifest_path = context.stem.with_name(context.stem.name + ".imgmanifest")
    context.log.ship(outputs)
    record = _record(context, state, uuid=manifest["uuid"])
    size_gate.check(context, record)
    outputs.write(
        record_path,
        json.dumps(private_words.masked(record.to_json(), context.bus), indent=2).encode() + b"\n",
    )
    if spec.pkg_audit:
        audit = state.installed.audit if state.installed else None
        text = audit[0] if audit else "the image has no audit tool\n"
        outputs.write(context.stem.with_name(context.stem.name + ".pkgaudit"), text.encode())
    outputs.write(manifest_path, imgmanifest.dumps(manifest).encode())
    for path in earlier_files(record_path):
        outputs.retire(path)
    proto_check.check(context, state)
    outputs.commit()
    for artifact in state.artifacts:
        context.bus.emit(
            ArtifactWritten(
                path=os.fspath(artifact.path),
                format=artifact.format,
                size=artifact.size,
                sha256=artifact.sha256,
            )
        )
    for event in layer_contents.events(record.layers):
        context.bus.emit(event)
    if state.blobs is not None and spec.cache:
        with report_failure(context.bus, "keeping the list of layers"):
            state.blobs.remember()
    return BuildResult(
        uuid=manifest["uuid"],
        manifest=manifest_path,
        record=record_path,
        files=tuple(asdict(file) for file in record.artifacts),
        tree_digest=record.tree_digest,
        seconds=time.time() - recorder.begin,
        recorder=recorder,
        sidecars=tuple(state.sidecars.files) if state.sidecars is not None else (),
    )


def earlier_files(record: Path) -> list[Path]:
    """Return the files that the last build of this name left beside its record: those of its image, and what
    proves that."""
    try:
        names = [file.name for file in load(record).artifacts]
    except UsageError:
        return []
    stem = record.name.removesuffix(RECORD_SUFFIX)
    # Whoever signed it by hand has left some as well.
    names += [f"{stem}{ending}" for ending in (".pkgaudit", *sidecars.SIDECARS.values())]
    names += [f"{name}{sidecars.SIDECARS[kind]}" for name in names for kind in sidecars.SIGNATURES]
    paths = [record.with_name(name) for name in names if name.startswith(f"{stem}.")]
    return [path for path in paths if path.is_file() or path.is_symlink() or (path / "oci-layout").is_file()]


def _file_json(artifact: Artifact) -> dict[str, Any]:
    """An image file as --json and the record have it."""
    return {**asdict(artifact), "path": os.fspath(artifact.path), "extra": dict(artifact.extra)}


def _record(context: BuildContext, state: BuildState, *, uuid: str) -> BuildRecord:
    """The record of a finished build."""
    spec, image, installed, proto = context.spec, state.image, state.installed, context.plan.proto
    audit = installed.audit if installed else None
    facts = state.snapshot.facts()
    record = context.recorder.record(spec, context.journal.ident)
    base = {
        "uuid": image.uuid,
        "key": image.key,
        "label": image.label,
        "name": image.name,
        "version": image.version,
        "tree_digest": image.tree_digest,
        **({"made_of": asdict(image.made_of)} if image.made_of is not None else {}),
        **image.inputs,
    }
    found = {
        "path": os.fspath(spec.proto),
        "files": proto.files,
        "bytes": proto.size,
        "direct": context.plan.in_place,
        "digest": recorded_proto.digest(context),
        "times": recorded_proto.times_of(proto, spec.source_date_epoch),
        "git": recorded_proto.git(spec.proto),
        "changed": explain(proto)[:50],
    }
    return replace(
        record,
        uuid=uuid,
        inputs={
            **record.inputs,
            "image": base,
            "proto": found,
            "pool": context.backend.uri,
            "installer": cache_inputs.installer(spec, image) if spec.wants_packages else "",
        },
        packages=installed.packages if installed else (),
        package_files=installed.files if installed else (),
        audit=Audit(text=audit[0], findings=audit[1]) if audit else None,
        entropy=state.entropy,
        layers=layer_contents.layers(spec, state),
        artifacts=tuple(ImageFile(**_file_json(artifact)) for artifact in state.artifacts),
        files_added=tuple(facts.added),
        tree_digest=facts.digest,
        tools=emit.tool_versions(spec),
        trust=state.sidecars.told if state.sidecars is not None else {},
    )
