"""Run a command of `build.run` in the image, or reuse what it left the last time."""

from __future__ import annotations

from buildstep.build import run_layer, run_rows
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.report.record import Step


def plan(facts: PlanFacts) -> Planned:
    """Return whether what the command leaves is kept, or why not."""
    if (planned := facts.commands.get(facts.step)) is not None:
        return planned
    if not facts.spec.cache:
        return Planned("run", "--no-cache")
    if facts.image is None:
        return Planned("run", "new base")
    kept = run_rows.find(facts.spec, facts.step).kept
    return Planned(
        "run", "what it stands on is not known yet" if kept else "its result is not kept by itself"
    )


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Adds a layer; settles later commands whose result is kept."""
    run_layer.obtain(context, state, result)
