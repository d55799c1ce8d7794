"""Run the commands of `build.run` in the image, as root, without the network unless they ask for it."""

from __future__ import annotations

import shlex
import time

from buildstep.build import debug_shell
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.errors import CommandFailed
from buildstep.report.record import Command, Step
from buildstep.rootfs import packaging
from buildstep.spec.fields import RunCommand
from buildstep.system.text import plural

_SHELL = ("/bin/sh", "-e", "-c")


def plan(facts: PlanFacts) -> Planned:
    """Return how many commands there are, and whether they have the network."""
    spec = facts.spec
    if not spec.run:
        return Planned("skip", "no commands are asked for")
    network = "with the network" if spec.run_options.network and spec.network else "without network"
    return Planned("run", f"{plural(len(spec.run), 'command')}, {network}")


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Runs them in their order; one that fails ends the build. The record has each."""
    spec, done = context.spec, context.recorder.commands
    options = spec.run_options
    if spec.cache:
        # What decides the result has to be known for it to be found again: these files were copied, unread.
        context.plan.proto.read_all()
    with packaging.enter(spec, state.root, context.bus, context.environ) as inside:
        for command in spec.run:
            begin, status = time.monotonic(), 0
            try:
                inside.run(
                    argv_of(command),
                    network=options.network,
                    env=options.env,
                    answer=False,
                    what=text_of(command),
                )
            except CommandFailed as error:
                status = error.status
                debug_shell.offer(context, state, error, inside)
                raise
            finally:
                seconds = round(time.monotonic() - begin, 3)
                done.append(Command(command=text_of(command), status=status, seconds=seconds))
    result.reason = f"{plural(len(done), 'command')}, {sum(row.seconds for row in done):.1f} s"


def argv_of(command: RunCommand) -> tuple[str, ...]:
    """Return the argument vector of a command: a line is for the image's shell, which ends at an error."""
    return command.argv or (*_SHELL, command.script)


def text_of(command: RunCommand) -> str:
    """Return a command as people read it: the first line of a script."""
    first, *more = (shlex.join(command.argv) or command.script).strip().splitlines() or [""]
    return f"{first} ..." if more else first
