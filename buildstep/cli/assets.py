"""`buildstep assets`: the services of hosts as tarballs in a store."""

from __future__ import annotations

import click

from buildstep.cli.lazy_group import LazyGroup

ROWS = {
    "push": ("buildstep.cli.assets_push:command", "Check a tarball, and store it as a version of a service."),
    "list": ("buildstep.cli.assets_list:list_", "List the assets of a store."),
    "show": ("buildstep.cli.assets_list:show_", "Show what is known of an asset."),
    "pull": ("buildstep.cli.assets_pull:command", "Bring the services of this host to its disk."),
    "rollback": ("buildstep.cli.assets_rollback:command", "Let a service run the version before."),
    "status": ("buildstep.cli.assets_status:command", "Show what a host wants, has and runs, and why."),
    "systemd": ("buildstep.cli.assets_systemd:command", "Write units that keep a host up to date."),
    "verify": ("buildstep.cli.assets_verify:command", "Read assets, and compare checksums and signatures."),
    "delete": ("buildstep.cli.assets_delete:command", "Delete a version of a service."),
    "index": ("buildstep.cli.assets_index:command", "Make the index for readers behind a web server."),
}
"""See `LazyGroup`."""


@click.group("assets", cls=LazyGroup, rows=ROWS)
def command() -> None:
    """Assets: `SERVICE-VERSION.tar.gz` in a store, pushed by a build and pulled by hosts.

    A version is pushed once and does not change. Which hosts get which services, `buildstep map` says.
    """
