"""`buildstep service systemd`: units that look after services."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from buildstep.cli import service_values, values
from buildstep.cli.options import echo, tell
from buildstep.cli.service_options import PATTERNS, chosen, with_repository

if TYPE_CHECKING:
    from buildstep.services.repository import Repository


@click.command("systemd")
@PATTERNS
@click.option("--dir", "folder", metavar="DIR", shell_complete=values.FOLDERS,
              help="Write the units there, as /etc/systemd/system; else they are printed.")  # fmt: skip
@click.option("--name", default="services", metavar="NAME", show_default=True,
              help="For buildstep-NAME.service; another for each repository.")  # fmt: skip
@click.option("--every", default="5m", metavar="SPAN", show_default=True,
              shell_complete=service_values.SPANS,
              help="How often a service is asked that does not say it.")  # fmt: skip
@click.option("--cleanup", default="1d", metavar="SPAN", show_default=True,
              shell_complete=service_values.SPANS, help="The time between two cleanups.")  # fmt: skip
@click.option("--user", metavar="NAME", default="", help="Who runs it; root without it.")
@click.option("--program", metavar="PATH", shell_complete=values.FILES,
              help="Of buildstep on the host; default: this one.")  # fmt: skip
@with_repository()
def command(
    repository: Repository, *, patterns: Sequence[str], folder: str | None, program: str | None, **words: str
) -> None:
    """Print or write units of systemd for services, all or those that keys match: a service that watches them
    and brings up what is down, at boot too, and a timer that lets them tidy up.

    Variables that `secret:env:NAME` names are read from /etc/buildstep/services.env.
    """
    from buildstep.cli.assets_systemd import this_program, write_units
    from buildstep.services.inputs import seconds_of
    from buildstep.services.units import UnitOptions, units

    seconds_of(words["every"], "--every")
    chosen(repository, patterns)
    here = Path(program or this_program())
    made = units(UnitOptions(program=here, root=repository.root.absolute(), keys=patterns, **words))
    if folder is None:
        for file, text in made.items():
            echo(f"# {file}\n{text}")
        return
    write_units(Path(folder), made)
    watch, _, timer = made
    tell(f"next: systemctl daemon-reload, then systemctl enable --now {watch} {timer}")
