"""`buildstep assets status`: what this host wants, has and runs, and why that differs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.assets_options import HYPHENS, Work, with_assets
from buildstep.cli.assets_pull import INSTALL_DIR, install_dir
from buildstep.cli.map_options import RegisterOptions, register_options
from buildstep.cli.options import JSON, QUIET, show, writing

if TYPE_CHECKING:
    from buildstep.assets.status import Status


@click.command("status")
@click.option("--host", metavar="NAME", help="Of another host than this one.")
@INSTALL_DIR
@click.option("--keep", type=click.IntRange(0), metavar="N", help="Want only the N newest versions.")
@click.option(
    "--only-version",
    "versions",
    metavar="PATTERN",
    multiple=True,
    help="Want only versions like this, such as '2.*'; repeat.",
)
@HYPHENS
@click.option("--compat", is_flag=True, help="The longest pattern wins, as with daybook.")
@click.option(
    "--metrics",
    metavar="FILE",
    shell_complete=values.FILES,
    help="Also write the Prometheus text format, for node_exporter; the name ends in .prom.",
)
@click.option("--check", is_flag=True, help="Exit code 20 if a pull would bring something.")
@with_assets
@register_options
@JSON
@QUIET
def command(
    work: Work,
    register: RegisterOptions,
    *,
    metrics: str | None,
    check: bool,
    as_json: bool,
    quiet: bool,
    **how: Any,
) -> int:
    """Show what this host wants, has and runs, and why that differs.

    Nothing is changed. Where the register or the store cannot be asked, what is on disk is shown, and the
    exit code is that of the error. --quiet: show nothing, as for --metrics or --check in a script.
    """
    from buildstep.assets import status
    from buildstep.errors import GateError

    found = _gather(work, register, how)
    if metrics:
        _write_metrics(Path(metrics), found)
    if not quiet:
        show(found.to_json(), status.lines(found), as_json=as_json)
    for error in found.errors.values():
        raise error
    if check and not found.up_to_date:
        raise GateError(
            f"{found.host} is not up to date", hint="`buildstep assets pull` brings what is missing"
        )
    return 0


def _gather(work: Work, register: RegisterOptions, how: dict[str, Any]) -> Status:
    from buildstep.assets.patterns import checked_host
    from buildstep.assets.places import this_host
    from buildstep.assets.retention import Retention
    from buildstep.assets.status import gather
    from buildstep.spec import config as configs

    config = work.config
    keep = config.keep if how["keep"] is None else how["keep"]
    return gather(
        host=checked_host(how["host"] or config.host or this_host()),
        install=install_dir(work, how["install_dir"]),
        register=register.open(configs.load(os.environ, Path.cwd()), work.environ, work.bus),
        store=work.store(),
        retention=Retention(keep=keep, versions=how["versions"], hyphens=work.hyphens(how["hyphens"])),
        compat=how["compat"] or config.compat,
    )


def _write_metrics(path: Path, found: Status) -> None:
    from buildstep.assets import metrics, status

    with writing(path):
        metrics.write(path, status.metrics(found))
