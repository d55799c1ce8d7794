"""`buildstep service create`: a service from a template, and those that it needs on its node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.components_options import split_names
from buildstep.cli.options import JSON, show, tell
from buildstep.cli.service_options import Given, answering, with_repository

if TYPE_CHECKING:
    from buildstep.services.create_requests import Request
    from buildstep.services.repository import Repository


@click.command("create")
@click.argument("template", metavar="TEMPLATE", shell_complete=values.SERVICE_TEMPLATES)
@click.argument("instance", metavar="[INSTANCE]", required=False)
@click.option(
    "-p", "--parent", metavar="KEY", default="", shell_complete=values.SERVICE_KEYS,
    help="The service that it lies in, such as the node that it runs on.",
)  # fmt: skip
@click.option(
    "-c", "--consume", multiple=True, metavar="KEY,...", callback=split_names,
    shell_complete=values.SERVICE_KEYS,
    help="Services that it uses.",
)  # fmt: skip
@answering
@click.option("-n", "--dry-run", is_flag=True, help="Check all of it, and write nothing.")
@with_repository()
@JSON
def command(
    repository: Repository,
    template: str,
    instance: str | None,
    parent: str,
    consume: Sequence[str],
    given: Given,
    **flags: bool,
) -> None:
    """Create a service from a template: TEMPLATE is its name, or a key with the instance, as in redis!cache.

    All is checked first, and all that is wrong is one error: nothing is written then. Without a name the
    instance is `main`, or has the name of its parent. A secret is given by reference, as secret:env:NAME or
    secret:file:PATH.
    """
    from buildstep.services import create

    request = _request(template, instance, parent, consume, given)
    dry_run = flags["dry_run"]
    if dry_run:
        rows = [_row(draft.text, draft.reason) for draft in create.plan(repository, request)]
    else:
        rows = [
            {**_row(made.service.key, made.reason), "folder": str(made.service.folder)}
            for made in create.create(repository, request, tell)
        ]
    lines = (row["key"] if row is rows[-1] else f"{row['key']}  ({row['reason']})" for row in rows)
    value = {
        "root": str(repository.root),
        "created": [] if dry_run else rows,
        "planned": rows if dry_run else [],
    }
    show(value, lines, as_json=flags["as_json"], done="" if dry_run else "the service is created")


def _row(key: str, reason: str) -> dict[str, Any]:
    return {"key": key, "reason": reason}


def _request(
    template: str, instance: str | None, parent: str, consume: Sequence[str], given: Given
) -> Request:
    """Return what the arguments ask for. Raises SpecError, UsageError."""
    from dataclasses import replace

    from buildstep.errors import UsageError
    from buildstep.services.create_requests import MAIN, Request
    from buildstep.services.keys import key_text, parse_path

    *above, key = parse_path(template)
    if instance and key.instance and instance != key.instance:
        raise UsageError(
            f"two names for the instance: {key.instance} and {instance}", hint="give one of them"
        )
    if above and parent:
        raise UsageError(f"two parents: {parent} and the one in {template}", hint="give one of them")
    return Request(
        template=key_text(replace(key, instance="")),
        instance=instance or key.instance or MAIN,
        parent=parent or ":".join(map(key_text, above)),
        consume=consume,
        answers=given.answers(),
        prompt=given.prompt,
    )
