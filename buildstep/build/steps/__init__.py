"""The steps of a build, in order. A new step is one row here and one file beside this one."""

from __future__ import annotations

from collections.abc import Iterator

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
    Step("run", "run commands", "run"),
    Step("clean", "clean", "clean"),
    Step("motd", "write the message of the day", "motd"),
    Step("snapshot", "read the finished tree", "snapshot"),
    Step("check", "check the image", "check"),
    Step("emit", "write the image", "emit", MAKES_IMAGE),
    Step("destroy", "drop the clone", "destroy"),
)


def in_order(spec: BuildSpec) -> Iterator[Step]:
    """Yield the steps in the order in which this build takes them: `packages-first` swaps two, and some are
    only there where they are asked for."""
    steps = list(STEPS)
    if spec.order == "packages-first" and spec.wants_packages:
        names = [step.name for step in steps]
        sync, packages = names.index("sync"), names.index("packages")
        steps[sync], steps[packages] = steps[packages], steps[sync]
    asked = {"accounts": spec.wants_accounts, "run": bool(spec.run)}
    yield from (step for step in steps if asked.get(step.name, True))
