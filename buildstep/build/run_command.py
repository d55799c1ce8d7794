"""Run one command of `build.run` in the image, behind the walls that package scripts have."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from dataclasses import replace

from buildstep.build import debug_shell
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.run_rows import Row
from buildstep.errors import CommandFailed, SandboxError
from buildstep.report.record import Command
from buildstep.rootfs import packaging, run_as
from buildstep.rootfs.sandbox import ChrootSandbox
from buildstep.spec.fields import BuildSpec, RunCommand
from buildstep.spec.run_rules import SHELL

_SCRIPT = "/run/buildstep/command"
"""Where a script is while it runs: on a tmpfs of the sandbox."""


def execute(context: BuildContext, state: BuildState, row: Row) -> Command:
    """Run a command; the record gets it, however it ends. Raises CommandFailed, SandboxError."""
    command, spec = row.command, context.spec
    timeouts = spec.timeouts
    if command.timeout is not None:
        timeouts = replace(timeouts, command=command.timeout, idle=max(timeouts.idle, command.timeout))
    begin, status = time.monotonic(), 0
    entered = packaging.enter(
        replace(spec, timeouts=timeouts),
        state.root,
        context.bus,
        context.environ,
        urls_of(spec, command),
        command.workdir or "/",
    )
    with entered as inside:
        try:
            with contextlib.ExitStack() as prepared:
                _run(context, state, row, inside, prepared)
        except CommandFailed as error:
            status = error.status
            debug_shell.offer(context, state, error, inside)
            raise
        finally:
            seconds = round(time.monotonic() - begin, 3)
            done = Command(command=text_of(command), status=status, seconds=seconds, name=row.command.name)
            context.recorder.commands.append(done)
    return done


def _run(
    context: BuildContext,
    state: BuildState,
    row: Row,
    inside: ChrootSandbox,
    prepared: contextlib.ExitStack,
) -> None:
    command, options = row.command, context.spec.run_options
    workdir = command.workdir or "/"
    if not state.root.is_dir(workdir):
        raise SandboxError(
            f"the command {row.name} cannot begin in {workdir}: the image has no such directory",
            hint="the proto directory, a package or an earlier command has to make it",
        )
    who = run_as.account(state.root, command.user)
    argv = command.argv
    if command.interpreter:
        prepared.enter_context(inside.temporary_file(_SCRIPT, command.script.encode(), mode=0o755))
        argv = (*command.interpreter, _SCRIPT)
    elif not argv:
        argv = (*SHELL, "-c", command.script)
    inside.run(
        who.argv(state.root, argv),
        network=options.network if command.network is None else command.network,
        env={**who.env, **options.env, **command.env},
        answer=False,
        what=text_of(command),
    )


_URL = re.compile(r"https?://[^\s\"'<>|;&()]+", re.IGNORECASE)


def urls_of(spec: BuildSpec, command: RunCommand) -> list[str]:
    """Return the URLs that a command names itself: it may reach these though they are on the CI host, as a
    mirror of packages may be."""
    texts = [*command.argv, command.script, *spec.run_options.env.values(), *command.env.values()]
    return [url for text in texts for url in _URL.findall(text)]


def text_of(command: RunCommand) -> str:
    """Return a command as people read it: the first line of a script."""
    first, *more = (shlex.join(command.argv) or command.script).strip().splitlines() or [""]
    return f"{first} ..." if more else first
