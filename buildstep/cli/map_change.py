"""`buildstep map add` and `remove`: change one mapping, whoever else does so at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from buildstep.cli import values
from buildstep.cli.map_options import MapWork, with_register
from buildstep.cli.options import JSON, show, tell

if TYPE_CHECKING:
    from buildstep.assets.mapping import Change


@click.command("add")
@click.argument("pattern", metavar="PATTERN", shell_complete=values.PATTERNS)
@click.argument(
    "services", metavar="SERVICE...", nargs=-1, required=True, shell_complete=values.MAPPED_SERVICES
)
@with_register
@JSON
def add(work: MapWork, pattern: str, services: tuple[str, ...], as_json: bool) -> None:
    """Add services to the hosts that a pattern matches. A mapping that is not there is made.

    Put the pattern in quotes: the shell would take its signs for file names.
    """
    from buildstep.assets import mapping

    _report(work, mapping.add(work.register, pattern, services), as_json)


@click.command("remove")
@click.argument("pattern", metavar="PATTERN", shell_complete=values.PATTERNS)
@click.argument("services", metavar="SERVICE...", nargs=-1, shell_complete=values.MAPPED_SERVICES)
@click.option("--all", "everything", is_flag=True, help="Remove the whole mapping.")
@with_register
@JSON
def remove(work: MapWork, pattern: str, services: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Remove services from the mapping of a pattern; one that has none left is removed."""
    from buildstep.assets import mapping
    from buildstep.errors import UsageError

    if everything == bool(services):
        raise UsageError("name the services to remove, or give --all to remove the mapping")
    _report(work, mapping.remove(work.register, pattern, services), as_json)


def _report(work: MapWork, change: Change, as_json: bool) -> None:
    for name in change.unknown:
        tell(f"note: {name} was not mapped to {change.pattern!r}")
    for fault in change.dropped:
        tell(f"note: left out, as it was wrong: {fault}")
    for fault in change.kept:
        tell(f"note: still wrong: {fault}")
    value = {
        "register": work.register.url,
        "pattern": change.pattern,
        "services": list(change.after or ()),
        "before": list(change.before or ()),
        "changed": change.changed,
        "unknown": list(change.unknown),
    }
    state = ", ".join(change.after) if change.after else "no mapping any more"
    line = f"{change.pattern}: {state}" + ("" if change.changed else " (as before)")
    show(value, [line], as_json=as_json, done=line)
