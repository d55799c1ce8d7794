"""Enable, disable and mask systemd's units, when all that brings units is in the image."""

from __future__ import annotations

from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.report.record import Step
from buildstep.rootfs import units
from buildstep.rootfs.laid_over import LaidOver
from buildstep.system.text import plural


def plan(facts: PlanFacts) -> Planned:
    """Return what is asked for."""
    asked = facts.spec.units
    rows = [("enable", asked.enable), ("disable", asked.disable), ("mask", asked.mask)]
    return Planned("run", "; ".join(f"{verb} {', '.join(names)}" for verb, names in rows if names))


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Make and remove the links; those that the proto directory brings count as well."""
    done = units.apply(context.spec.units, LaidOver(state.root, state.overlay, state.root_prefix))
    for unit, wanting in done.absent:
        context.bus.note(f"{unit} is wanted by {wanting}, which is not in the image", level="warning")
    for path, target in done.made.items():
        context.bus.note(f"{path} -> {target}", level="debug")
    for path in done.removed:
        context.bus.note(f"removed {path}", level="debug")
    result.reason = f"{plural(len(done.made), 'link')} made, {len(done.removed)} removed"
