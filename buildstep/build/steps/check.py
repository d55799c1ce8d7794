"""Check the finished image, before anything of it is written."""

from __future__ import annotations

from buildstep.build import image_rules
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.checks import in_force
from buildstep.checks.examine import examine
from buildstep.errors import CheckError
from buildstep.report.record import Step
from buildstep.system.text import plural


def plan(facts: PlanFacts) -> Planned:
    """Return how many rules the image is held to."""
    rules = sum(1 for _ in in_force(facts.spec.checks))
    return Planned("run", plural(rules, "rule")) if rules else Planned("skip", "every rule is off")


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Raises CheckError that names every check that failed, with what it found."""
    spec = context.spec
    subject = image_rules.subject(context, state)
    rules = list(in_force(spec.checks))
    failed = examine(rules, subject, spec.allow, context.bus)
    result.reason = f"{plural(len(rules), 'rule')}, {plural(len(subject.added), 'path')}"
    if failed:
        raise CheckError(
            f"{plural(len(failed), 'check')} of the image failed: {failed[0].check}: {failed[0].message}",
            detail="\n".join(f"{event.check}: {line}" for event in failed for line in event.lines),
            hint=_hint(failed[0].check, failed[0].group),
        )


def _hint(name: str, group: str) -> str:
    if group != "rule":
        return "--keep-on-failure keeps the tree, and --shell-on-failure opens a shell in it"
    return (
        f'mend it, or let it pass in the build part of m.json: "allow": {{"{name}": ["/PATH"]}};'
        f' "checks": {{"rules": {{"{name}": "warn"}}}} makes it a warning'
    )
