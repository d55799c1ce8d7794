"""Run one command of `build.run` in the image, behind the walls that package scripts have."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from buildstep.build import cache_inputs, debug_shell, secrets
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.run_rows import Row
from buildstep.build.secrets import Secrets
from buildstep.cache import step_caches
from buildstep.errors import CommandFailed, SandboxError
from buildstep.report.record import Command
from buildstep.rootfs import packaging, run_as
from buildstep.rootfs.network_policy import endpoint_of
from buildstep.rootfs.run_as import Account
from buildstep.rootfs.sandbox import ChrootSandbox
from buildstep.rootfs.secret_files import place_of
from buildstep.spec.fields import BuildSpec, RunCommand
from buildstep.spec.run_rules import SHELL

_SCRIPT = "/run/buildstep/command"
"""Where a script is while it runs: on a tmpfs of the sandbox."""


_areas = itertools.count(1)

_LONG = 30_000
"""Characters of a script that is no argument any more: Linux takes 128 KiB in one (MAX_ARG_STRLEN)."""


def execute(context: BuildContext, state: BuildState, row: Row) -> tuple[Command, Secrets]:
    """Run a command; the record gets it, however it ends. Returns that, and what the command was shown.

    Raises CommandFailed, SandboxError.
    """
    command, spec = row.command, context.spec
    timeouts = spec.timeouts
    if command.timeout is not None:
        timeouts = replace(timeouts, command=command.timeout, idle=max(timeouts.idle, command.timeout))
    begin, status = time.monotonic(), 0
    shown = secrets.read(spec, command.secrets, state.root, environ=context.environ, bus=context.bus)
    entered = packaging.enter(
        replace(spec, timeouts=timeouts),
        state.root,
        context.bus,
        context.environ,
        urls_of(spec, command, shown),
        command.workdir or "/",
    )
    with entered as inside, contextlib.ExitStack() as prepared:
        try:
            _run(context, row, Place(inside=inside, prepared=prepared, shown=shown))
        except CommandFailed as error:
            status = error.status
            debug_shell.offer(context, state, error, inside)
            raise
        finally:
            seconds = round(time.monotonic() - begin, 3)
            done = Command(command=text_of(command), status=status, seconds=seconds, name=command.name)
            context.recorder.commands.append(done)
    return done, shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a command runs: a root that was entered, what undoes what is set up there, what is shown."""

    inside: ChrootSandbox
    prepared: contextlib.ExitStack
    shown: Secrets


def _run(context: BuildContext, row: Row, place: Place) -> None:
    command, options, inside = row.command, context.spec.run_options, place.inside
    root, workdir = inside.root, command.workdir or "/"
    if not root.is_dir(workdir):
        raise SandboxError(
            f"the command {row.name} cannot begin in {workdir}: the image has no such directory",
            hint="the proto directory, a package or an earlier command has to make it",
        )
    who = run_as.account(root, command.user)
    # In one order, whatever a command lists: no two builds wait for each other.
    for target in sorted(place_of(path, who).rstrip("/") for path in command.cache):
        _show_cache(context, place, target, who)
    place.prepared.enter_context(place.shown.shown(inside, who))
    argv = command.argv
    if command.interpreter or len(command.script) > _LONG:
        place.prepared.enter_context(inside.temporary_file(_SCRIPT, command.script.encode(), mode=0o755))
        argv = (*(command.interpreter or SHELL), _SCRIPT)
    elif not argv:
        argv = (*SHELL, "-c", command.script)
    with _named(who.argv(root, argv)[0], argv[0]):
        inside.run(
            who.argv(root, argv),
            network=options.network if command.network is None else command.network,
            env={**who.env, **options.env, **command.env, **dict(place.shown.env)},
            answer=False,
            what=text_of(command),
        )


@contextlib.contextmanager
def _named(wrapper: str, program: str) -> Iterator[None]:
    """Let an error say that the program ended, not what started it as another user, which has its status."""
    try:
        yield
    except CommandFailed as error:
        head, found, ended = error.message.rpartition(f": {wrapper} ")
        if found:
            error.message = f"{head}: {program} {ended}"
            error.args = (error.message, *error.args[1:])
        raise


def _show_cache(context: BuildContext, place: Place, target: str, who: Account) -> None:
    """Show a directory that stays for the next build, or an empty one where nothing kept may be used."""
    owner, state, bus, prepared = (who.uid, who.gid), context.backend.state, context.bus, place.prepared
    if context.spec.cache:
        component = cache_inputs.component(context.spec)
        source = prepared.enter_context(step_caches.opened(state, component, target, owner, bus.note))
        if place.shown.words:
            source = prepared.enter_context(step_caches.apart(source, _area(context, prepared)))
    else:
        source = prepared.enter_context(step_caches.fresh(_area(context, prepared), owner))
    prepared.callback(secrets.drop_left, source, time.time(), place.shown, bus)
    prepared.enter_context(place.inside.share(source, target, writable=True))


def _area(context: BuildContext, prepared: contextlib.ExitStack) -> Path:
    """Make a directory that `heal` removes if this build is killed."""
    name = f"{context.journal.ident}-caches-{next(_areas)}"
    area = context.journal.folder(context.backend.state / "work" / name)
    prepared.callback(area.rmdir)
    return area


_URL = re.compile(r"https?://[^\s\"'<>|;&()]+", re.IGNORECASE)


def urls_of(spec: BuildSpec, command: RunCommand, shown: Secrets) -> list[str]:
    """Return the URLs that a command and its secrets name: it may reach these though they are on the CI host,
    as a mirror of packages may be."""
    texts = [*command.argv, command.script, *spec.run_options.env.values(), *command.env.values()]
    texts += [secret.content.decode("utf-8", "replace") for secret in shown.files]
    texts += [value for _, value in shown.env]
    found = []
    for url in (url for text in texts for url in _URL.findall(text)):
        with contextlib.suppress(ValueError):
            endpoint_of(url)
            found.append(url)
    return found


def text_of(command: RunCommand) -> str:
    """Return a command as people read it: the first line of a script."""
    first, *more = (shlex.join(command.argv) or command.script).strip().splitlines() or [""]
    return f"{first} ..." if more else first
