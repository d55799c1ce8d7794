"""`buildstep image`: the base images of a pool."""

from __future__ import annotations

import json
import time
from typing import Any

import click

_POOL = click.option("--pool", metavar="URI", help="The pool (default: the one that builds use).")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("image", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Base images: import, list, show, verify, delete."""


def _json_of(record: Any, *, whole: bool) -> dict[str, Any]:
    value: dict[str, Any] = record.to_json()
    if not whole:
        value["packages"] = len(value["packages"])
    return {"name": record.name, "version": record.version, **value}


@command.command("import")
@click.argument("ref")
@_POOL
@_JSON
@click.option("-v", "--verbose", count=True, help="Show the tools' output.")
def import_(ref: str, pool: str | None, as_json: bool, verbose: int) -> int:
    """Bring an image into the store; nothing is done when it is there, verified."""
    from buildstep.cli.session import enclosed, open_session
    from buildstep.journal import open_journal

    def job() -> int:
        session = open_session(pool, verbose=verbose)
        with open_journal(session.backend.state, f"import {ref}") as journal:
            record, present = session.store.ensure(ref, journal)
        if as_json:
            click.echo(json.dumps({**_json_of(record, whole=False), "present": present}, indent=2))
        else:
            click.echo(
                f"{record.uuid}  {record.name}@{record.version}  {'was there' if present else 'imported'}"
            )
        return 0

    return enclosed(job)


@command.command("list")
@_POOL
@_JSON
def list_(pool: str | None, as_json: bool) -> int:
    """List the images in the store."""
    from buildstep.cli.session import enclosed, open_session
    from buildstep.log import size_text

    def job() -> int:
        records = open_session(pool, quiet=True, healing=False).store.records()
        if as_json:
            click.echo(
                json.dumps({"images": [_json_of(record, whole=False) for record in records]}, indent=2)
            )
            return 0
        for record in records:
            day = time.strftime("%Y-%m-%d", time.gmtime(record.imported))
            name = f"{record.name}@{record.version}"
            click.echo(f"{record.uuid}  {name:40} {size_text(record.size):>10}  {day}  {record.label}")
        return 0

    return enclosed(job)


@command.command("show")
@click.argument("ref")
@_POOL
def show(ref: str, pool: str | None) -> int:
    """Print everything the store knows of an image, as JSON."""
    from buildstep.cli.session import enclosed, open_session

    def job() -> int:
        record = open_session(pool, quiet=True, healing=False).store.get(ref)
        click.echo(json.dumps(_json_of(record, whole=True), indent=2))
        return 0

    return enclosed(job)


@command.command("verify")
@click.argument("refs", nargs=-1)
@_POOL
@_JSON
def verify(refs: tuple[str, ...], pool: str | None, as_json: bool) -> int:
    """Read images (all of them, if none is named) and compare every file with what was imported."""
    from buildstep.cli.session import enclosed, open_session
    from buildstep.errors import ExitCode, ImageError

    def job() -> int:
        store = open_session(pool, quiet=True).store
        records = [store.get(ref) for ref in refs] or store.records()
        rows = []
        for record in records:
            problem = ""
            try:
                store.verify(record)
            except ImageError as error:
                problem = f"{error.message}: {error.detail}"
            rows.append({"uuid": record.uuid, "ok": not problem, "problem": problem})
            if not as_json:
                click.echo(f"{record.uuid}  {record.name}@{record.version}  {problem or 'good'}")
        if as_json:
            click.echo(json.dumps({"images": rows}, indent=2))
        return ExitCode.OK if all(row["ok"] for row in rows) else ExitCode.IMAGE

    return enclosed(job)


@command.command("delete")
@click.argument("refs", nargs=-1, required=True)
@_POOL
def delete(refs: tuple[str, ...], pool: str | None) -> int:
    """Remove images from the store; one that others stand on is refused."""
    from buildstep.cli.session import enclosed, open_session

    def job() -> int:
        store = open_session(pool, quiet=True).store
        for record in [store.get(ref) for ref in refs]:
            store.delete(record)
            click.echo(f"{record.uuid} deleted")
        return 0

    return enclosed(job)
