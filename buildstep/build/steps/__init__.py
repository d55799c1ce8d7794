"""The steps of a build, in order. A new step is one row here and one file beside this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from buildstep.build import run_rows
from buildstep.build.run_rows import Row
from buildstep.build.steps.interface import Route, Step
from buildstep.spec.load import BuildSpec

ALWAYS = frozenset(Route)
MAKES_IMAGE = frozenset({Route.FULL, Route.CONTENT_UPDATE})

STEPS = (
    Step("import", "import the base image", "import_", ALWAYS),
    Step("clone", "clone the base image", "clone"),
    Step("accounts", "make users and groups", "accounts"),
    Step("sync", "copy the proto directory", "proto"),
    Step("packages", "install packages", "packages"),
    Step("run", "run a command", "run"),
    Step("units", "enable and mask units", "units"),
    Step("clean", "clean", "clean"),
    Step("motd", "write the message of the day", "motd"),
    Step("snapshot", "read the finished tree", "snapshot"),
    Step("check", "check the image", "check", MAKES_IMAGE),
    Step("emit", "write the image", "emit", MAKES_IMAGE),
    Step("trust", "prove what it is", "trust", ALWAYS),
    Step("destroy", "drop the clone", "destroy"),
)


def in_order(spec: BuildSpec) -> Iterator[Step]:
    """Yield the steps in the order in which this build takes them. Each command is one; those with inputs of
    their own follow the packages where these come first, and then comes the proto directory."""
    later = run_rows.proto_comes_later(spec)
    asked = {"accounts": spec.wants_accounts, "units": bool(spec.units), "trust": spec.proof.writes}
    table = {step.name: step for step in STEPS}
    for step in STEPS:
        if step.name == run_rows.STEP:
            yield from _commands(step, run_rows.late(spec))
        elif step.name == "packages" and later:
            yield from (step, *_commands(table[run_rows.STEP], run_rows.early(spec)), table["sync"])
        elif asked.get(step.name, step.name != "sync" or not later):
            yield step


def _commands(step: Step, rows: Sequence[Row]) -> list[Step]:
    return [replace(step, name=row.step, title=f"{step.title}: {row.name}") for row in rows]
