"""Check the finished image, before anything of it is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from buildstep.build import image_config, image_rules
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.checks import asked, in_force
from buildstep.checks.examine import examine
from buildstep.checks.image import Image
from buildstep.checks.prove import prove
from buildstep.errors import CheckError
from buildstep.events import Checked
from buildstep.report.record import Step
from buildstep.rootfs import run_image
from buildstep.rootfs.run_image import ImageSandbox
from buildstep.spec.fields import BuildSpec
from buildstep.system.root import Root
from buildstep.system.text import plural


def plan(facts: PlanFacts) -> Planned:
    """Return how many rules the image is held to, and how many tests it has to pass."""
    text = _text(facts.spec)
    return Planned("run", text) if text else Planned("skip", "every rule is off, and no test is asked for")


def _text(spec: BuildSpec) -> str:
    rules, tests = len(list(in_force(spec.checks))), len(list(asked(spec.checks)))
    return ", ".join(
        [*([plural(rules, "rule")] if rules else []), *([plural(tests, "test")] if tests else [])]
    )


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Raises CheckError that names every check that failed, with what it found."""
    spec = context.spec
    subject = image_rules.subject(context, state)
    failed = examine(in_force(spec.checks), subject, spec.allow, context.bus)
    if context.plan.update is None:  # which is for builds without tests
        failed += prove(asked(spec.checks), _image(context, state), context.bus)
    image_rules.examined(context, subject)
    result.reason = f"{_text(spec)}; {plural(len(subject.added), 'path')} of this build"
    if failed:
        raise error(failed)


def error(failed: list[Checked]) -> CheckError:
    """Return the error of checks that failed: each with what it found."""
    first = failed[0]
    names = [event.check if event.group == "rule" else f"{event.group} {event.check}" for event in failed]
    rows = zip(names, failed, strict=True)
    return CheckError(
        f"{plural(len(failed), 'check')} of the image failed: {names[0]}: {first.message}",
        detail="\n".join(f"{name}: {line}" for name, event in rows for line in event.lines),
        hint=_hint(first),
    )


def _hint(first: Checked) -> str:
    if first.group != "rule":
        return "--keep-on-failure keeps the tree, and --shell-on-failure opens a shell in it"
    name = first.check
    return (
        f'mend it, or let it pass in the build part of m.json: "allow": {{"{name}": ["/PATH"]}};'
        f' "checks": {{"rules": {{"{name}": "warn"}}}} makes it a warning'
    )


def _image(context: BuildContext, state: BuildState) -> Image:
    """Return the image as tests see it: each that runs something has the tree to itself."""
    spec, config = context.spec, image_config.of(context, state)
    rows = spec.checks.get("globalEnvVars", ())

    @contextlib.contextmanager
    def enter() -> Iterator[ImageSandbox]:
        with context.backend.scratch(state.dataset) as view:
            root = Root(view / state.root_prefix)
            with run_image.enter(
                root, config, bus=context.bus, environ=context.environ, most=spec.limits
            ) as inside:
                yield inside

    return Image(config=config, root=state.root, enter=enter, env={row["key"]: row["value"] for row in rows})
