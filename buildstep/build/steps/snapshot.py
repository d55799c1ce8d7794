"""Read the finished tree."""

from __future__ import annotations

from buildstep.build import clones
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.report.record import Step


def plan(_facts: PlanFacts) -> Planned:
    """It is read in every full build."""
    return Planned("run", "what the image holds, and what differs from the base")


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Sets snapshot."""
    copied = None if state.overlay else context.plan.proto
    state.finished = clones.read_clone(context, state, state.below, overlay=state.overlay, copied=copied)
    changes = state.finished.changes
    result.reason = (
        f"{len(state.finished.entries)} paths, {len(changes.entries)} new or changed, "
        f"{len(changes.removed)} removed"
    )
