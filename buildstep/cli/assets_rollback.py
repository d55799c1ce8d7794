"""`buildstep assets rollback`: let a service run the version that it ran before."""

from __future__ import annotations

from typing import Any

import click

from buildstep.cli import values
from buildstep.cli.assets_options import Work, with_assets
from buildstep.cli.assets_pull import INSTALL_DIR, hook_options, hooks_of, install_dir
from buildstep.cli.options import JSON, show


@click.command("rollback")
@click.argument("service", metavar="SERVICE", shell_complete=values.INSTALLED)
@click.option(
    "--to",
    metavar="VERSION",
    default="",
    shell_complete=values.INSTALLED_VERSIONS,
    help="Not the version before, but this one.",
)
@INSTALL_DIR
@hook_options
@with_assets
@JSON
def command(work: Work, service: str, *, to: str, as_json: bool, **how: Any) -> None:
    """Let SERVICE/current name the version that ran before, with the hooks of a change.

    A pull does not activate the version that is left again, but a newer one. With --to any version that is
    installed runs; one that failed or was rolled back is tried again.
    """
    from buildstep.assets.activate import roll_back
    from buildstep.assets.install import locked
    from buildstep.assets.names import checked_service, checked_version
    from buildstep.errors import UsageError

    checked_service(service)
    if to:
        checked_version(to, hyphens=True)
    hooks, install = hooks_of(how), install_dir(work, how["install_dir"])
    if not (install / service).is_dir():
        raise UsageError(f"{install} has no {service}", hint="--install-dir names where services are")
    with locked(install, work.bus.note) as place:
        left, now = roll_back(place.path, service, hooks, work.bus, to=to)
    line = f"{service} runs {now}{f', not {left} any more' if left else ''}"
    show({"service": service, "left": left, "current": now}, [line], as_json=as_json, done=line)
