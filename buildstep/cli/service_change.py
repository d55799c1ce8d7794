"""`buildstep service consume`, `update` and `remove`: changes of services that are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, show, tell
from buildstep.cli.service_options import PATTERNS, Given, answering, chosen, with_repository
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.services.repository import Repository
    from buildstep.services.update import Update


@click.command("consume")
@click.argument("key", metavar="KEY", shell_complete=values.SERVICE_KEYS)
@click.argument(
    "producers", metavar="PRODUCER...", nargs=-1, required=True, shell_complete=values.SERVICE_KEYS
)
@with_repository()
@JSON
def consume(repository: Repository, key: str, producers: Sequence[str], as_json: bool) -> None:
    """Let a service use others, which its next install tells it. Each key must mean one service."""
    from buildstep.errors import Fault, SpecError
    from buildstep.services import relations

    with repository.lock(tell):
        repository.reload()
        faults: list[Fault] = []
        found = []
        for text in (key, *producers):
            try:
                found.append(repository.one(text))
            except SpecError as error:
                faults += error.faults
        if faults:
            raise SpecError("services", faults)
        service, *used = found
        added = relations.consume(repository, service, used)
    value = {"key": service.key, "added": added, "producers": service.producers}
    lines = [f"{service.key} uses {one} ({role})" for role, keys in added.items() for one in keys]
    show(value, lines or [f"{service.key} uses them already"], as_json=as_json, done="the service uses them")


@click.command("update")
@PATTERNS
@answering
@click.option("-n", "--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@with_repository()
@JSON
def update(
    repository: Repository,
    patterns: Sequence[str],
    given: Given,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take changed templates into services, all or those that keys match, and say what changes, key by key.

    Answers stay. N is new, M modified, D deleted. What runs takes it with the next install.
    """
    from buildstep.services.update import apply, plan_updates

    with repository.lock(tell):
        repository.reload()
        updates = plan_updates(repository, chosen(repository, patterns), given.answers(), given.prompt)
        updates = [found for found in updates if found.changes]
        if not dry_run:
            apply(updates)
    value = {
        "root": str(repository.root),
        "dry_run": dry_run,
        "updates": [
            {"key": found.service.key, "changes": [change._asdict() for change in found.changes]}
            for found in updates
        ],
    }
    show(value, _changes(updates), as_json=as_json, done="" if dry_run else "services are updated")


def _changes(updates: Sequence[Update]) -> Iterator[str]:
    for found in updates:
        yield found.service.key
        yield from (f"  {change}" for change in found.changes)
    yield f"{plural(len(updates), 'service')} changed" if updates else "nothing changed"


@click.command("remove")
@click.argument("patterns", metavar="KEY...", nargs=-1, required=True, shell_complete=values.SERVICE_KEYS)
@click.option(
    "--force", is_flag=True, help="Even one that is installed: what it has where it runs stays there."
)
@with_repository()
@JSON
def remove(repository: Repository, patterns: Sequence[str], force: bool, as_json: bool) -> None:
    """Remove services that are installed nowhere, with all that is known of them.

    One that another service needs stays, unless that is removed too. `buildstep service uninstall` first
    stops one and takes it from where it runs.
    """
    from buildstep.services.removal import remove as remove_all

    with repository.lock(tell):
        repository.reload()
        keys = remove_all(repository, chosen(repository, patterns), force=force)
    show({"removed": keys}, (f"removed {key}" for key in keys), as_json=as_json, done="services are removed")
