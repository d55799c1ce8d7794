"""Clone the base image, or the cached layer with the packages."""

from __future__ import annotations

from buildstep.build import cached_layer, run_keys, run_layer
from buildstep.build.clones import make_clone
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.pool.interface import Kind
from buildstep.report.record import Step


def plan(_facts: PlanFacts) -> Planned:
    """A clone is always made."""
    return Planned("run", "every build works in a clone of its own")


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Sets dataset. With a valid layer it settles the steps that made that."""
    layer = cached_layer.find_valid(context, state)
    state.layer_key = run_keys.root_key(context.spec, state.image) if not context.spec.wants_packages else ""
    higher = run_layer.reach(context, state, layer.record.key if layer else state.layer_key)
    if higher:
        result.reason = f"{Kind.LAYER} {higher}"
    elif layer is not None:
        cached_layer.go_on(context, state, layer)
        cached_layer.settle(context, state, layer.record)
        result.reason = f"{Kind.LAYER} {layer.record.key}"
    else:
        make_clone(context, state, Kind.IMAGE, state.image.uuid)
        result.reason = f"{Kind.IMAGE} {state.image.uuid}"
