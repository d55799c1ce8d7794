"""Prove what the image is: bills of materials, provenance, results of checks, signatures."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildstep.build import image_source, proved, sidecars, signing
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.build.sidecars import Image, Sidecars
from buildstep.build.steps.interface import Route
from buildstep.cache import kept_source
from buildstep.images import inventory as images
from buildstep.report.parse import load
from buildstep.report.record import Step
from buildstep.trust.inventory.gather import inventory_of
from buildstep.trust.inventory.model import Inventory


def plan(facts: PlanFacts) -> Planned:
    """Return what is asked for."""
    return Planned("run", proved.text(facts.spec.proof))


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Sets sidecars, and adds their files to the outputs."""
    if context.plan.route is Route.UP_TO_DATE:
        _run_beside(context, state, result)
        return
    old, update = image_source.load(context), context.plan.update
    if update is not None:
        source = image_source.of_update(context, state, old)
    else:
        source = image_source.of_clone(context, state, old)
    facts = state.snapshot.facts()
    made = Image(
        artifacts=sidecars.artifacts_of(state.artifacts),
        tree_digest=facts.digest,
        checks=tuple(context.recorder.checks),
        ident=context.journal.ident,
        started=context.recorder.begin,
        finished=time.time(),
        index=state.resolution.index if state.resolution is not None else "",
        package_files=state.installed.files if state.installed is not None else (),
    )
    with signing.beside(context, made.artifacts, state.signers) as signed:
        found = inventory_of(source, name=context.spec.name)
        _write(context, state, sidecars.make(context, state, found, made, signed))
    result.reason = _said(state.sidecars)
    if context.spec.cache:
        if source.whole:
            source.kept.tree, source.kept.build = facts.digest, context.journal.ident
            source.kept.hashed = source.hashed
        kept_source.save(context.backend.state, image_source.slot(context.spec), source.kept, facts.lines)


def _run_beside(context: BuildContext, state: BuildState, result: Step) -> None:
    """Make the files anew beside an image that stands, where they are not what is asked for."""
    facts = context.plan.outputs
    assert facts is not None
    wrong = proved.problem(context.spec, facts)
    if not wrong:
        result.state, result.reason = "reuse", proved.text(context.spec.proof)
        return
    record = load(Path(facts["record"]))
    resolution = context.plan.resolution
    made = Image(
        artifacts=tuple(facts["files"]),
        tree_digest=record.tree_digest,
        checks=record.checks,
        ident=record.build_id,
        started=record.started.timestamp(),
        finished=record.started.timestamp() + record.seconds,
        index=resolution.index if resolution is not None else "",
        package_files=record.package_files,
    )
    source = image_source.of_kept(context, image_source.load(context), record.tree_digest)
    with signing.beside(context, made.artifacts, state.signers) as signed:
        if source is not None:
            found = inventory_of(source, name=context.spec.name)
        else:
            found = _of_archive(context, facts)
        _write(context, state, sidecars.make(context, state, found, made, signed))
    result.reason = f"{_said(state.sidecars)}; {wrong}"


def _of_archive(context: BuildContext, facts: Mapping[str, Any]) -> Inventory:
    """Return what is in an image that stands, of which nothing is kept. Raises ImageError."""
    path = proved.readable(facts)
    context.bus.note(f"{os.path.basename(path)} is read for what is in it")
    with images.of_archive(path, bus=context.bus, environ=context.environ) as looked:
        return looked.inventory


def _said(made: Sidecars | None) -> str:
    return made.text if made is not None else ""


def _write(context: BuildContext, state: BuildState, made: Sidecars) -> None:
    state.sidecars = made
    for path, data in made.files.items():
        context.outputs.write(path, data)
