"""The shell of --shell-on-failure: where the failed command ran, with what it had, and nothing undone."""

from __future__ import annotations

import os
import shlex

from buildstep.build.context import BuildContext, BuildState, report_failure
from buildstep.errors import BuildstepError, CommandFailed, InImage
from buildstep.rootfs import packaging
from buildstep.rootfs.sandbox import ChrootSandbox
from buildstep.system import process, terminal
from buildstep.system.text import printable

_SHELL = "/bin/sh"


def offer(
    context: BuildContext, state: BuildState, error: BaseException, inside: ChrootSandbox | None = None
) -> None:
    """Open a shell for the person at the terminal, if this build asks for one and has not had it yet.

    inside: the image's root as the failed step has entered it, if it is still in there. Where the failed
    command ran on the CI host, or the image cannot be entered or has no shell, it is a shell on the host, in
    the build's namespaces.
    """
    if not context.spec.shell_on_failure or state.shell_offered or state.clone is None:
        return
    if not isinstance(error, Exception):
        return
    state.shell_offered = True
    screen = terminal.screen()
    if screen is None:
        context.bus.note(
            "--shell-on-failure: no shell is opened, as standard input or output is no terminal; "
            "--keep-on-failure keeps the clone",
            level="warning",
        )
        return
    failed = _command(error)
    enters = context.backend.privileged and state.root.is_program(_SHELL)
    on_host = not enters or (failed is not None and failed.inside is None)
    # An error ends the line of a live view: the terminal is the shell's now.
    context.bus.note(f"failed: {error}; a shell is opened", level="error")
    with report_failure(context.bus, "the shell"):
        text = context.bus.masked(_told(error, failed, state, on_host=on_host))
        os.write(screen, text.encode(errors="backslashreplace"))
        if on_host:
            terminal.host_shell(process.base_env(os.environ, TERM=os.environ.get("TERM", "dumb")))
        else:
            _in_image(context, state, inside, failed.inside if failed else None)


def _command(error: BaseException) -> CommandFailed | None:
    """Return the failed command that led to an error."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        if isinstance(at, CommandFailed):
            return at
        seen.add(id(at))
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return None


def _in_image(
    context: BuildContext, state: BuildState, inside: ChrootSandbox | None, ran: InImage | None
) -> None:
    if inside is not None:
        inside.shell(ran)
        return
    with packaging.enter(context.spec, state.root, context.bus, context.environ) as entered:
        entered.shell(ran)


def _told(error: BaseException, failed: CommandFailed | None, state: BuildState, *, on_host: bool) -> str:
    """Return what the person is told before the shell opens."""
    lines = ["", f"buildstep: {error}"]
    if isinstance(error, BuildstepError):
        lines += error.detail.rstrip().splitlines()
        lines += [f"hint: {error.hint}"] if error.hint else []
    lines.append("")
    if on_host:
        lines.append("A shell on the CI host, in the build's namespaces. The root of the image:")
        lines.append(f"    {state.root.path}")
    elif failed is not None and failed.inside is not None:
        network = "the network" if failed.inside.network else "no network"
        lines.append(f"A shell in the image, with the command's mounts and environment, and {network}.")
    else:
        lines.append("A shell in the image.")
    if failed is not None and on_host == (failed.inside is None):
        lines += ["To run the command again:", "", f"    {shlex.join(failed.argv)}", ""]
    lines += ["The build ends, and undoes what it did, when you leave the shell (exit).", ""]
    return "\n".join(map(printable, lines)) + "\n"
