"""Remove what must not be in an image."""

from __future__ import annotations

from buildstep.build import clones
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.report.record import Step
from buildstep.rootfs import cleaners, entropy


def plan(facts: PlanFacts) -> Planned:
    """Return the names of the cleaners."""
    return Planned("run", ", ".join(facts.spec.cleaners(cleaners.DEFAULT)))


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Sets entropy, the paths that differ from build to build."""
    removed = clones.clean(context, state)
    paths, size = sum(item.paths for item in removed), sum(item.bytes for item in removed)
    result.reason = f"{paths} paths, {size} bytes removed"
    state.entropy = tuple(f"{path}: {why}" for path, why in entropy.entropy(state.root))
