"""The files beside an image that prove what it is: made together, given their names with the image's files.

They are made of the finished tree and of the artifacts, on whatever route these came; no byte of an image
depends on them. Where an image stands and they do not, they alone are made.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from buildstep.build import (
    dependencies,
    elsewhere,
    private_words,
    proved,
    provenance,
    recorded_proto,
    signing,
    test_result,
    vulnerabilities,
)
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.signing import Signed
from buildstep.images.record import ImageRecord
from buildstep.images.shown import shown_reference, vendor_of
from buildstep.report.event_log import SUFFIX as EVENTS
from buildstep.report.record import RECORD_SUFFIX, Check
from buildstep.spec.load import BuildSpec
from buildstep.spec.lock import LockedPackage
from buildstep.system.text import plural
from buildstep.trust import sbom, sidecars
from buildstep.trust.inventory.model import Base, Inventory
from buildstep.trust.keys.interface import Signer
from buildstep.trust.statements.statement import Statement
from buildstep.trust.statements.subjects import subjects_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """The image that is proved. artifacts: as the build record has them, with the paths that they will have;
    tree_digest: of its file list; checks: what the image was held to; ident, started: of the build that made
    it; index: the digest of the repository's lists, empty for none; package_files: what the build took."""

    artifacts: Sequence[Mapping[str, Any]]
    tree_digest: str
    checks: Sequence[Check]
    ident: str
    started: float
    finished: float
    index: str = ""
    package_files: Sequence[LockedPackage] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecars:
    """What was made. files: by their final paths; told: for the build record; known: in words, which
    vulnerabilities are."""

    files: Mapping[Path, bytes]
    told: Mapping[str, Any]
    known: str = ""

    @property
    def text(self) -> str:
        """What was made, for people."""
        return ", ".join([*(path.name for path in self.files), *([self.known] if self.known else [])])


def make(
    context: BuildContext, state: BuildState, inventory: Inventory, made: Image, signed: Signed
) -> Sidecars:
    """Return the files that are asked for. Raises SigningError for a key that cannot sign, EmitError for a
    file with a secret of the build in it."""
    spec, stem, image, keys = context.spec, context.stem, state.image, state.signers
    files = dependencies.package_files(spec, image, made.package_files)
    inventory = dependencies.with_hashes(named(spec, image, inventory, made), files)
    known = vulnerabilities.looked_up(spec, inventory, context.bus)  # before anything is signed
    found: dict[Path, bytes] = {}
    statements: list[Statement] = []
    subjects = subjects_of(made.artifacts, made.tree_digest)
    for name in spec.proof.sbom:
        data = sbom.write(name, inventory)
        found[sidecars.sidecar(stem, name)] = data
        statements.append(Statement(subjects, sbom.find(name).predicate_type, json.loads(data)))
    if (tests := test_result.statement(spec, made.checks, subjects)) is not None:
        statements.append(tests)
    if known is not None:
        statements.append(vulnerabilities.statement(spec, known, subjects))
    if spec.proof.provenance:
        rows = dependencies.resolved(
            spec,
            image,
            recorded_proto.digest(context),
            inventory,
            files,
            made.index,
            context.plan.proto,
        )
        if unknown := dependencies.without_digest(rows):
            context.bus.note(
                f"provenance names {plural(unknown, 'package')} without the digest of its file: of a base or"
                " a layer from before these were kept"
            )
        facts = provenance.Facts(
            subjects=subjects,
            dependencies=rows,
            byproducts=_byproducts(stem, found, tests),
            ident=made.ident,
            started=made.started,
            finished=made.finished,
            internal={"pool": context.backend.uri.partition(":")[0]},
        )
        statements.append(provenance.statement(spec, facts))
    # Bills are in statements once more: these are looked through alone.
    envelopes = sidecars.sidecar(stem, sidecars.STATEMENTS)
    private_words.refuse(found, context.bus)
    for row in statements[len(found) :]:
        private_words.refuse({envelopes: row.to_json()}, context.bus)
    if keys and (alone := signing.of_image(subjects, made.artifacts)) is not None:
        statements.append(alone)
    if statements:
        found[envelopes] = signing.lines(statements, keys, envelopes)
    found |= signed()
    return Sidecars(
        files=found,
        told={**_told(spec, found, keys), **vulnerabilities.told(spec, known)},
        known=vulnerabilities.text(spec, known),
    )


def named(spec: BuildSpec, image: ImageRecord, found: Inventory, made: Image) -> Inventory:
    """Return what is in an image with what it is called. image: its base.

    What names the image is told only where each build of it has the same name: with a SOURCE_DATE_EPOCH.
    """
    base = Base(
        label=shown_reference(image.label),
        name=image.name,
        version=image.version,
        digest=str(image.inputs.get("digest", "")),
        tree_digest=image.tree_digest,
    )
    extra: Mapping[str, Any] = {}
    if spec.source_date_epoch is not None:
        extra = next((it["extra"] for it in made.artifacts if "digest" in it["extra"]), {})
    return replace(
        found,
        name=spec.name,
        version=spec.version,
        description=str(spec.manifest.get("description", "")),
        supplier=vendor_of(spec.oci.annotations, spec.oci.labels),
        base=base if image.files > 1 else None,
        digests={**({"oci": str(extra["digest"])} if extra else {}), "tree": made.tree_digest},
        created=spec.source_date_epoch,
        layers=tuple(extra.get("layers", ())),
        known_from="build",
    )


def _byproducts(stem: Path, files: Mapping[Path, bytes], tests: Statement | None) -> list[dict[str, Any]]:
    """Return what else the build wrote. Record and log are not finished yet: they are told by name."""
    rows: list[dict[str, Any]] = [
        {"name": path.name, "digest": {"sha256": hashlib.sha256(data).hexdigest()}}
        for path, data in files.items()
    ]
    if tests is not None:
        digest = hashlib.sha256(tests.to_json()).hexdigest()
        rows.append({"name": "test result", "digest": {"sha256": digest}})
    return rows + [{"uri": f"{stem.name}{suffix}"} for suffix in (RECORD_SUFFIX, EVENTS)]


def _told(spec: BuildSpec, files: Mapping[Path, bytes], keys: Sequence[Signer]) -> dict[str, Any]:
    """Return what the build record says of these files."""
    proof = spec.proof
    return {
        "files": [
            {"name": path.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in files.items()
        ],
        "sbom": list(proof.sbom),
        "provenance": proof.provenance,
        "keys": [key.fingerprint for key in keys],
        **({"builder": provenance.builder(spec)} if proof.provenance else {}),
    }


def settle(context: BuildContext, state: BuildState, facts: Mapping[str, Any]) -> tuple[Path, ...]:
    """Give the files beside an image that stands their names, and return all of them. facts: see
    `outputs.find`. What is not asked for any more goes, and the build record tells what is there."""
    old, made = Path(facts["place"]), state.sidecars
    moved = [elsewhere.moved(path, old, context.stem) for path in elsewhere.beside(context, facts)]
    if not proved.changed(context, state):
        return tuple(moved)
    found = tuple(made.files) if made is not None else ()
    record = elsewhere.moved(Path(facts["record"]), old, context.stem)
    there = elsewhere.wanted(context)
    value = json.loads(context.outputs.place(record).read_bytes())
    value["trust"] = dict(made.told) if made is not None else {}
    data = json.dumps(value, indent=2).encode() + b"\n"
    if there:
        context.outputs.rewrite(record, data)
        return found
    context.outputs.write(record, data)
    for name in facts.get("trust", {}).get("files", {}):
        if Path(name) not in found:
            context.outputs.retire(Path(name))
    context.outputs.commit()
    return found


def artifacts_of(files: Iterable[Any]) -> list[dict[str, Any]]:
    """Return artifacts as the build record has them."""
    return [{**asdict(file), "path": os.fspath(file.path), "extra": dict(file.extra)} for file in files]
