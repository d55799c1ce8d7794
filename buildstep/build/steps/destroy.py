"""Drop the clone."""

from __future__ import annotations

from buildstep.build.clones import drop_clone
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.report.record import Step


def plan(facts: PlanFacts) -> Planned:
    """It is dropped in every build that made one, unless it was asked for."""
    if facts.spec.keep_clone:
        return Planned("skip", "the clone was asked for")
    return Planned("run", "nothing is left behind")


def run(context: BuildContext, state: BuildState, _result: Step) -> None:
    """Sets dataset to none."""
    drop_clone(context, state)
