"""Check the finished image, before anything of it is written."""

from __future__ import annotations

from buildstep.build import image_config, image_rules
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.checks import asked, goss
from buildstep.checks.examine import examine
from buildstep.checks.finished import error, image_of
from buildstep.checks.image import Image
from buildstep.checks.prove import prove
from buildstep.report.record import Step
from buildstep.spec.fields import BuildSpec
from buildstep.system import process
from buildstep.system.text import plural


def plan(facts: PlanFacts) -> Planned:
    """Return how many rules the image is held to, and how many tests it has to pass. Raises ToolMissing
    where these need a program that is not there."""
    if facts.spec.checks.get("goss"):
        process.which(goss.PROGRAM)
    text = _text(facts.spec)
    return Planned("run", text) if text else Planned("skip", "every rule is off, and no test is asked for")


def _text(spec: BuildSpec) -> str:
    rules, tests = len(image_rules.active(spec)), len(list(asked(spec.checks)))
    return ", ".join(
        [*([plural(rules, "rule")] if rules else []), *([plural(tests, "test")] if tests else [])]
    )


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Raises CheckError that names every check that failed, with what it found."""
    spec = context.spec
    subject = image_rules.subject(context, state)
    now, later = image_rules.when(context, subject)
    failed = examine(now, subject, spec.allow, context.bus)
    if context.plan.update is None:  # which is for builds without tests
        failed += prove(asked(spec.checks), _image(context, state), context.bus)
    if later and not failed:
        state.unsearched = subject
    else:  # what is wrong is told together
        failed += examine(later, subject, spec.allow, context.bus)
        image_rules.examined(context, subject)
    result.reason = f"{_text(spec)}; {plural(len(subject.added), 'path')} of this build"
    if failed:
        raise error(failed)


def _image(context: BuildContext, state: BuildState) -> Image:
    return image_of(
        context.backend,
        state.dataset,
        state.root,
        image_config.of(context, state),
        checks=context.spec.checks,
        bus=context.bus,
        within=(context.environ, context.spec.limits),
    )
