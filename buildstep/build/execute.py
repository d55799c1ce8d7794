"""Carry out a plan: each step in order, and everything undone at the end or on failure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildstep.build import (
    elsewhere,
    forecast,
    private_words,
    proto_check,
    secrets,
    shared_upload,
    size_gate,
    vulnerabilities,
)
from buildstep.build.context import BuildContext, BuildState, report_failure
from buildstep.build.deliver import BuildResult, deliver, earlier_result
from buildstep.build.log_file import BuildLog
from buildstep.build.plan import Plan
from buildstep.build.remember import remember, remember_again
from buildstep.build.steps import in_order
from buildstep.build.steps.import_ import open_blobs
from buildstep.build.steps.interface import Route
from buildstep.cache import outputs
from buildstep.cache.layers import LayerCache
from buildstep.errors import BuildstepError, Interrupted
from buildstep.events import BuildStarted, Bus
from buildstep.images.store import ImageStore
from buildstep.pool.interface import Backend
from buildstep.pool.journal import Journal, open_journal
from buildstep.pool.stale import output_lock, sweep_outputs
from buildstep.report.recorder import Recorder
from buildstep.system import space
from buildstep.system.locks import lock
from buildstep.system.output_set import Outputs

After = Callable[[str, BuildState], None]
"""Is told of each step that has run, by its name, and of what the build has made so far."""


def execute(
    plan: Plan,
    *,
    store: ImageStore,
    cache: LayerCache,
    bus: Bus,
    environ: Mapping[str, str],
    after: After = lambda _step, _state: None,
) -> BuildResult:
    """Carry out a plan. On any failure nothing is committed and nothing is left; the error is raised."""
    space.watch(pool=store.backend.state, output_directory=plan.spec.output_dir)
    with _disk_explained(plan, store.backend):
        if plan.route is Route.FULL:
            forecast.check_room(
                plan.spec, backend=store.backend, image=plan.image, proto=plan.proto, copied=plan.copies
            )
            if plan.image is None and (
                said := forecast.warning(plan.spec, backend=store.backend, proto=plan.proto)
            ):
                bus.note(said, level="warning")
        return _execute(plan, after, store=store, cache=cache, bus=bus, environ=environ)


def _execute(
    plan: Plan, after: After, *, store: ImageStore, cache: LayerCache, bus: Bus, environ: Mapping[str, str]
) -> BuildResult:
    spec = plan.spec
    stem = spec.stem
    private_words.hide(bus, private_words.given(spec, environ))
    recorder = Recorder(bus, total=len(plan.steps))
    with (
        open_journal(store.backend.state, f"build {spec.name} {spec.version}") as journal,
        _writing(stem, journal, bus),
        BuildLog(stem, store.backend.state, journal.ident, bus) as log,
    ):
        bus.emit(
            BuildStarted(
                build_id=journal.ident,
                name=spec.name,
                version=spec.version,
                image=plan.image.label if plan.image else spec.base,
                total_steps=recorder.total,
            )
        )
        try:
            with contextlib.ExitStack() as stack:
                context = BuildContext(
                    plan=plan,
                    store=store,
                    cache=cache,
                    bus=bus,
                    environ=environ,
                    journal=journal,
                    log=log,
                    recorder=recorder,
                    outputs=stack.enter_context(Outputs()),
                    stack=stack,
                )
                state = BuildState()
                context = _with_route(context, state)
                _ready_to_prove(context, state)
                with _disk_explained(context.plan, context.backend, state), proto_check.explained(context):
                    _run_steps(context, state, after)
                    result = _result(context, state)
            if spec.cache and context.plan.route is Route.UP_TO_DATE:
                remember_again(context, state, result)
            elif spec.cache:
                remember(context, state, result)
        except BaseException as error:
            code = error.code if isinstance(error, BuildstepError | Interrupted) else 1
            recorder.finish(ok=False, exit_code=code, message=str(error))
            with report_failure(bus, "keeping the log"):
                log.keep_failed(recorder.failed_record(spec, journal.ident, error, code))
            raise
        recorder.finish(ok=True, exit_code=0)
    return result


def _with_route(context: BuildContext, state: BuildState) -> BuildContext:
    """Return the context with the route that is still possible, now that nobody else writes these outputs.

    A content update needs every layer that it does not make; outputs may have been replaced by another build
    of the same name since the plan was made.
    """
    plan = context.plan
    if plan.outputs is not None:
        found = outputs.find(context.backend.state, str(plan.outputs["key"]), plan.spec.stem)
        if found is not None:
            context = replace(context, plan=replace(plan, outputs=found))
            if not elsewhere.wanted(context) or elsewhere.bring(context, found):
                return context
        return replace(context, plan=plan.full())
    if plan.update is not None:
        state.blobs = open_blobs(context)
        possible = plan.update.complete(state.blobs)
    else:
        possible = True
    return context if possible else replace(context, plan=plan.full())


def _run_steps(context: BuildContext, state: BuildState, after: After) -> None:
    """Run the steps of the plan that its route runs; record the others as they are planned."""
    if context.store.shared is not None:
        context.stack.callback(context.store.shared.close)
    rows = {step.name: step for step in in_order(context.spec)}
    for planned in context.plan.steps:
        row = rows[planned.name]
        settled = state.settled.get(planned.name)
        if settled is None and (planned.state == "skip" or context.plan.route not in row.routes):
            settled = planned
        if settled is not None:
            context.recorder.skip(settled.name, settled.reason, state=settled.state, key=settled.key)
            continue
        with context.recorder.step(row.name, row.title) as result, secrets.errors_masked(context.bus):
            row.load().run(context, state, result)
        after(planned.name, state)
    if context.store.shared is not None:  # what it was good for is in the record
        context.store.shared.close()


@contextlib.contextmanager
def _disk_explained(plan: Plan, backend: Backend, state: BuildState | None = None) -> Iterator[None]:
    """Turn what a full or failing disk led to into a DiskError, while what the build wrote is still there."""
    try:
        yield
    except (BuildstepError, OSError) as error:
        image = state.image_record if state else None
        told = forecast.forecast(plan.spec, backend=backend, image=image or plan.image, proto=plan.proto)
        needs = {
            "pool": space.Need(told.pool.likely, told.pool.inodes),
            "output directory": space.Need(told.output.likely, told.output.inodes),
        }
        failure = space.explain(error, needs)
        if failure is None or failure is error:
            raise
        raise failure from error


def _result(context: BuildContext, state: BuildState) -> BuildResult:
    """Commit the outputs, or return those that are still valid."""
    if (facts := context.plan.outputs) is not None:
        size_gate.check_again(context, facts["files"])
        beside = _settled(context, state, facts)
        if elsewhere.wanted(context):
            facts = elsewhere.told(context, facts)
            elsewhere.deliver(context, facts)
        return earlier_result(context, facts, beside)
    result = deliver(context, state)
    result = replace(result, uploads=shared_upload.collect(context, state, result.seconds))
    # What follows takes memory of its own.
    state.forget_trees()
    context.plan.proto.drop_entries()
    if context.plan.base is not None:  # callers have the plan to the end
        context.plan.base.clear()
    return result


# What proves an image is imported where it is asked for: other builds start without it.


def _ready_to_prove(context: BuildContext, state: BuildState) -> None:
    """Open the keys that sign, and look for databases, before the work. Raises what these do."""
    if context.spec.proof.writes:
        from buildstep.build import signing

        state.signers = signing.opened(context)
        vulnerabilities.ready(context.spec)


def _settled(context: BuildContext, state: BuildState, facts: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return the files beside an image that stands, once they have their names."""
    if not context.spec.proof.writes and not facts.get("trust"):
        return ()
    from buildstep.build import sidecars

    return sidecars.settle(context, state, facts)


@contextlib.contextmanager
def _writing(stem: Path, journal: Journal, bus: Bus) -> Iterator[None]:
    """Let one build at a time write files of one name into a folder. The lock file is not left there."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = output_lock(stem)
    with lock(path, tell=bus.note):
        sweep_outputs(stem)  # what a dead build left whose journal was lost
        journal.outputs(stem)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
