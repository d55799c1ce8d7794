"""`buildstep run`: a command, or what the image is for, in a copy of an image that is thrown away."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import pairs, tell, with_session

if TYPE_CHECKING:
    from buildstep.cli.session import Session
    from buildstep.system.forward import Port

_PORT = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*[^:\[\]0-9][^:\[\]]*):)?([0-9]{1,5})(?::([0-9]{1,5}))?")
_LAST_PORT = 65535


def _ports(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> tuple[Port, ...]:
    """Return the values of -p: a callback for click."""
    from buildstep.system.forward import Port

    found = []
    for value in given:
        match = _PORT.fullmatch(value)
        numbers = [] if match is None else [int(match[2]), int(match[3] or match[2])]
        if match is None or max(numbers) > _LAST_PORT or not numbers[1]:
            raise click.BadParameter(
                f"{value!r} is not [HOST:]PORT[:PORT], such as 8080 or 127.0.0.1:8000:80"
            )
        host = (match[1] or "127.0.0.1").strip("[]")
        found.append(Port(host=host, port=numbers[0], inside=numbers[1]))
    return tuple(found)


@click.command(
    "run",
    context_settings={"allow_interspersed_args": False},
    epilog="Exit codes: that of the command, 126 or 127 if it cannot be started, 128+N if signal N ended it;"
    " 2 usage, 10 dataset, 11 image, 13 sandbox.",
)
@click.argument("image", metavar="IMAGE|RECORD|ARCHIVE", shell_complete=values.IMPORTABLE)
@click.argument("argv", nargs=-1, metavar="[-- CMD...]", type=click.UNPROCESSED)
@click.option("-i", "--interactive", is_flag=True, help="Let it read standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal, with job control.")
@click.option("-p", "--publish", "ports", multiple=True, metavar="[HOST:]PORT[:PORT]", callback=_ports,
              help="Forward a port of this machine (127.0.0.1) to one of the image; repeat.")  # fmt: skip
@click.option("--network", is_flag=True, help="Let it reach others, through a proxy, as steps of a build do.")
@click.option("-e", "--env", multiple=True, callback=pairs, metavar="KEY=VALUE", help="A variable; repeat.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Who it runs as (default: as the image says).")
@click.option(
    "-w", "--workdir", metavar="PATH-IN-IMAGE", help="Where it begins (default: as the image says)."
)
@with_session(quiet=True)
def command(
    session: Session,
    image: str,
    argv: tuple[str, ...],
    interactive: bool,
    tty: bool,
    ports: tuple[Port, ...],
    **options: Any,
) -> int:
    """Run CMD in a copy of an image; without one, what the image says: its entrypoint and command.

    IMAGE is an image of the store or a reference, as for `build -i`; ARCHIVE an image file, and RECORD the
    *.buildrecord.json beside one. The user, the environment and the directory are the image's. The network
    is a loopback. What is written is gone when the command ends, and so is all that it started.
    """
    from buildstep.errors import UsageError
    from buildstep.images.opened import opened
    from buildstep.rootfs import run_image
    from buildstep.system.forward import Forward

    if tty and not (interactive and sys.stdin.isatty()):
        raise UsageError(
            "-t needs a person at a terminal, and standard input is none" if interactive else "-t needs -i",
            hint="give -it at a terminal, and -i alone for a pipe",
        )
    with contextlib.ExitStack() as stack:
        # Before anything is made: a port that is taken is told at once.
        forwards = [stack.enter_context(contextlib.closing(Forward(port))) for port in ports]
        found = stack.enter_context(opened(session.store, image, "run"))
        words = (argv[1:] if argv[:1] == ("--",) else argv) or found.config.argv
        if not words:
            raise UsageError(
                f"{image} has no command of its own",
                hint="give one after --, such as `-- /bin/sh`, or the image one by build.oci.cmd",
            )
        entered = run_image.enter(
            found.root,
            found.config,
            bus=session.bus,
            environ=session.environ,
            network=options["network"],
            most=session.config.limits,
        )
        inside = stack.enter_context(entered)
        assert inside.namespace is not None
        for forward, port in zip(forwards, ports, strict=True):
            forward.start(inside.namespace)
            tell(f"{forward.address} leads to port {port.inside} of the image")
        how = run_image.How(env=options["env"], user=options["user"], workdir=options["workdir"])
        return inside.attach(words, how, stdin=interactive, tty=tty)
