"""`buildstep assets delete`: delete a version of a service."""

from __future__ import annotations

import click

from buildstep.cli import values
from buildstep.cli.assets_options import Work, found, with_assets
from buildstep.cli.options import JSON, show


@click.command("delete")
@click.argument("service", shell_complete=values.SERVICES)
@click.argument("versions", metavar="VERSION...", nargs=-1, required=True, shell_complete=values.VERSIONS)
@click.option("-n", "--dry-run", is_flag=True, help="Only print what would be deleted.")
@with_assets
@JSON
def command(work: Work, service: str, versions: tuple[str, ...], *, dry_run: bool, as_json: bool) -> None:
    """Delete versions of a service from a store.

    Hosts that have them keep them until their next pull. If one is not there, none is deleted.
    """
    store = work.store()
    doomed = [found(store, service, version) for version in dict.fromkeys(versions)]
    if not dry_run:
        for name in doomed:
            store.delete(name)
        store.finish()
    value = {"store": store.url, "deleted": [name.file for name in doomed], "dry_run": dry_run}
    verb = "would be deleted" if dry_run else "deleted"
    lines = [f"{name.file}  {verb}" for name in doomed]
    show(value, lines, as_json=as_json, done="" if dry_run else "; ".join(lines))
