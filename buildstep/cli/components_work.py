"""`buildstep components work`: do one job of a build that another machine runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.components_options import BUILDER, HANDOVER
from buildstep.cli.options import JSON, show, tell

if TYPE_CHECKING:
    from buildstep.components.interface import Job, Result


@click.command("work")
@click.argument("ticket")
@HANDOVER
@BUILDER
@click.option("--name", metavar="NAME", default="", envvar="BUILDSTEP_WORKER", show_envvar=True,
              help="What this machine is called (default: NODE_NAME, or its host name).")  # fmt: skip
@click.option("--scratch", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              shell_complete=values.FOLDERS, envvar="BUILDSTEP_COMPONENTS_SCRATCH", show_envvar=True,
              help="Where a job has its files (default: beside this user's pools).")  # fmt: skip
@JSON
def command(ticket: str, **options: Any) -> int:
    """Do the job of a TICKET that a build on another machine has put into the hand-over.

    A build with an --executor that has other machines starts this there. The job is done as it would be in a
    local build, in a directory of its own; what it made is put into the hand-over, and then its result.
    Whoever ends this command before leaves no result. Secrets of images are files of this machine, by their
    ids, in the directory that BUILDSTEP_COMPONENTS_SECRETS names.

    Exit code 15 if the job failed, which is a result; with any other one but 0 there is none.
    """
    from buildstep.cli import guard

    # In the namespaces of a build a machine has no name.
    options["name"] = options["name"] or os.environ.get("NODE_NAME") or os.uname().nodename
    return guard.enclosed(lambda: _work(ticket, **options))


def _work(
    ticket: str, *, handover: tuple[str, ...], builder: str, name: str, scratch: Path | None, as_json: bool
) -> int:
    import functools

    from buildstep.components import agent
    from buildstep.components import handover as handovers
    from buildstep.components.builders import open_builder
    from buildstep.components.interface import State
    from buildstep.errors import ExitCode, Fault, SpecError
    from buildstep.files.layout import is_digest
    from buildstep.pool import default_location
    from buildstep.system import namespaces
    from buildstep.system.text import printable

    faults = handovers.faults(handover, "--handover", os.environ)
    if not is_digest(ticket):
        hint = "64 hex digits, as the build gives them"
        faults.append(Fault(where="TICKET", message=f"{printable(ticket[:80])!r} is none", hint=hint))
    if faults:
        raise SpecError("components work", faults)
    here = agent.Here(
        state=(scratch or default_location(os.environ) / "components-work").absolute(),
        environ=os.environ,
        builder=functools.cache(lambda: open_builder(builder, os.environ)),
        worker=name,
        say=_say,
        mounting=namespaces.supported(),
    )
    with handovers.opened(handover, environ=os.environ) as opened:
        result = agent.work(opened, ticket, here)
    show(_row(result), [f"{result.job}: {result.state}: {result.output or result.message}"], as_json=as_json)
    return int(ExitCode.OK if result.state is State.BUILT else ExitCode.GRAPH)


def _say(_job: Job, text: str) -> None:
    from buildstep.system.text import printable

    tell(printable(text))


def _row(result: Result) -> dict[str, Any]:
    return {
        "job": result.job,
        "state": str(result.state),
        "output": result.output,
        "message": result.message,
        "worker": result.worker,
        "seconds": round(result.seconds, 3),
    }
