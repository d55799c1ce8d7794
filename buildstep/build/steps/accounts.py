"""Make users and groups with fixed numbers, before packages take these and before owners are looked up."""

from __future__ import annotations

from buildstep.build import accounts
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.build.plan_text import layer_text
from buildstep.report.record import Step
from buildstep.spec.load import BuildSpec


def plan(facts: PlanFacts) -> Planned:
    """Return who is made; a cached layer with the packages has them."""
    if facts.layer is not None and facts.layer.record is not None:
        return Planned("reuse", layer_text(facts.layer.record))
    return facts.commands.get(facts.step) or Planned("run", _text(facts.spec))


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Sets owners."""
    accounts.make(context, state)
    accounts.keep_apart(context, state)
    result.reason = _text(context.spec)


def _text(spec: BuildSpec) -> str:
    rows = [*(f"user {row.name} {row.uid}" for row in spec.users)]
    rows += [f"group {row.name} {row.gid}" for row in spec.groups]
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return ", ".join(rows[:5]) + more
