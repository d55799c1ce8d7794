"""The trees that commands leave: found in the cache, or made and kept, one on the other."""

from __future__ import annotations

import contextlib
import os
import time

from buildstep.build import (
    cached_layer,
    clones,
    keep_layer,
    layer_comments,
    proto_check,
    proto_conflicts,
    run_keys,
    run_rows,
    secrets,
)
from buildstep.build.cached_layer import LayerName
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.keep_layer import NewLayer
from buildstep.build.run_command import execute
from buildstep.build.run_keys import RowKey
from buildstep.build.run_rows import Row
from buildstep.report.record import Step
from buildstep.rootfs import conflicts

DEEPEST = 16
"""Layers that one may lie on: the mount of an overlay names them all, in one page."""


def slot(name: str, step: str) -> str:
    """For what a layer was made: what a missing one is compared with. name: of what is built."""
    return f"{name}/{step}"


def reach(context: BuildContext, state: BuildState, below: str) -> str:
    """Go on in a clone of the topmost tree of a command that is kept, and return its key; empty for none.

    below: the key of what the first command stands on; empty where it has none.
    """
    spec = context.spec
    rows = run_rows.rows(spec)
    if not (spec.cache and below and any(row.kept for row in rows)):
        return ""
    if state.run_keys is None:
        state.run_keys = run_keys.chain(spec, context.plan.proto, below)
    passed = {step.name for step in context.recorder.steps[:-1]}
    for row in reversed(rows):
        if row.step in passed or row.step in state.settled:
            break
        known = state.run_keys.get(row.step)
        layer = cached_layer.take(context, known.key) if row.kept and known else None
        if layer is not None:
            if state.clone is not None:
                clones.drop_clone(context, state)
            cached_layer.go_on(context, state, layer)
            cached_layer.settle(context, state, layer.record, up_to=row.step)
            return layer.record.key
    return ""


def obtain(context: BuildContext, state: BuildState, result: Step) -> None:
    """Go on with what a command leaves: from the cache, or by running it. Sets the result of its step."""
    row = run_rows.find(context.spec, result.name)
    if state.run_keys is None and state.layer_key and reach(context, state, state.layer_key):
        _settled(state, result)
        return
    known = (state.run_keys or {}).get(row.step) if row.kept else None
    with contextlib.ExitStack() as making:
        if known is not None:
            making.enter_context(context.cache.making(known.key, context.bus.note))
            result.key = known.key
            if context.cache.find(known.key) is not None and reach(context, state, state.layer_key):
                _settled(state, result)
                return
        _make(context, state, row, known, result)


def _settled(state: BuildState, result: Step) -> None:
    found = state.settled[result.name]
    result.state, result.reason, result.key = found.state, found.reason, found.key


def _make(context: BuildContext, state: BuildState, row: Row, known: RowKey | None, result: Step) -> None:
    begin = time.monotonic()
    missing = missing_text(context, row, known)
    if context.spec.cache and not row.early:
        # What decides the result has to be known for it to be found again: these files were copied, unread.
        context.plan.proto.read_all()
    if row.early:
        lay_inputs(context, state, row)
    command, shown = execute(context, state, row)
    result.reason = f"{command.seconds:.1f} s{missing}"
    if not row.kept:
        return
    clones.clean(context, state)
    if not row.early and known is None and not shown.words:
        return
    before, copied = state.below, None if row.early else context.plan.proto
    finished = clones.read_clone(context, state, before, copied=copied)
    secrets.check_left(state, finished.changes.entries, shown, f"the command {row.name}")
    if row.early:
        keep_layer.set_below(context, state, finished)
        name = LayerName(run_rows.STEP, layer_comments.command(row))
        cached_layer.add_blob(state, state.dataset.path, before, name)
    else:
        keep_layer.hash_all(context, state, finished)
    if known is None or not _can_keep(context, state, row):
        return
    _check_proto(context, state, row)
    new = NewLayer(
        key=known.key,
        slot=slot(context.spec.name, row.step),
        what=f"what the command {row.name} has made",
        inputs=known.inputs,
        seconds=time.monotonic() - begin,
        of_image=row.early,
    )
    keep_layer.keep(context, state, finished, new)


def missing_text(context: BuildContext, row: Row, known: RowKey | None) -> str:
    """Return why a command has to run, as the end of a sentence."""
    if not context.spec.cache:
        return "; --no-cache"
    if known is None:
        return "" if not row.kept else "; what it stands on has no key"
    return f"; {context.cache.why(slot(context.spec.name, row.step), known.inputs)}"


def _can_keep(context: BuildContext, state: BuildState, row: Row) -> bool:
    """Return whether a tree can be kept: all layers of the image below it are."""
    spec = context.spec
    rows = run_rows.early(spec)
    count = rows.index(row) if row.early else len(rows)
    return len(state.image_layers) == count + spec.wants_packages and len(state.under) < DEEPEST


def lay_inputs(context: BuildContext, state: BuildState, row: Row) -> None:
    """Copy a command's inputs, and nothing else of the proto directory, to where they will be."""
    spec, proto = context.spec, context.plan.proto
    state.replaced = proto_conflicts.find(
        spec, proto, state.root_list, base="the image so far", tree=lambda: contextlib.nullcontext(state.root)
    )
    wanted = run_keys.with_folders(run_keys.matching(proto, row.command.inputs))
    conflicts.make_way(state.root, [found for found in state.replaced if found.source in set(wanted)])
    clones.copy_proto_dir(context, state, only=[os.fsdecode(path) for path in wanted])


def _check_proto(context: BuildContext, state: BuildState, row: Row) -> None:
    """Raise EmitError if what a key says of the proto directory is not so any more."""
    proto = context.plan.proto
    if row.early:
        proto_check.check_paths(context, run_keys.with_folders(run_keys.matching(proto, row.command.inputs)))
    else:
        proto_check.check(context, state)
