"""`buildstep image`: base images, in a pool and in repositories; and handing built ones on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from buildstep.cli.publish import command as publish

_POOL = click.option("--pool", metavar="URI", help="The pool (default: the one that builds use).")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_SOURCE = click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="URI",
    help="Look here, and not where buildstep.toml says: https://HOST, dir:PATH, s3://BUCKET; repeat.",
)


@click.group("image", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def command() -> None:
    """Base images: import, list, show, verify, delete, gc; publish hands a built one on."""


command.add_command(publish)


def _json_of(record: Any, *, whole: bool) -> dict[str, Any]:
    value: dict[str, Any] = record.to_json()
    if not whole:
        value["packages"] = len(value["packages"])
    return {"name": record.name, "version": record.version, **value}


@command.command("import")
@click.argument("ref", metavar="REF|FILE")
@click.option(
    "--manifest", metavar="FILE", help="The imgmanifest of FILE: proves it, and gives it its uuid and name."
)
@_POOL
@_SOURCE
@_JSON
@click.option("-v", "--verbose", count=True, help="Show the tools' output.")
def import_(
    ref: str, manifest: str | None, pool: str | None, sources: tuple[str, ...], as_json: bool, verbose: int
) -> int:
    """Bring an image into the store; nothing is done when it is there, verified.

    REF: a uuid or name@version of a repository, or a locator: docker://HOST/NAME[:TAG], oci:PATH[:TAG],
    tar:FILE, zfs:FILE[,MANIFEST], mmdebstrap:SUITE, scratch. What a FILE holds is told by its content.
    """
    from buildstep.cli.session import enclosed, open_session
    from buildstep.pool.journal import open_journal

    def job() -> int:
        wanted = ref if manifest else _locator(ref)
        session = open_session(pool, verbose=verbose, sources=sources)
        with open_journal(session.backend.state, f"import {ref}") as journal:
            if manifest:
                record, present = session.store.import_file(Path(ref), Path(manifest), journal)
            else:
                record, present = session.store.ensure(wanted, journal)
        if as_json:
            click.echo(json.dumps({**_json_of(record, whole=False), "present": present}, indent=2))
        else:
            click.echo(
                f"{record.uuid}  {record.name}@{record.version}  {'was there' if present else 'imported'}"
            )
        return 0

    return enclosed(job)


def _locator(ref: str) -> str:
    """A file or layout without a scheme gets the one of its content."""
    if not Path(ref).exists():
        return ref
    from buildstep.images.file_kind import kind_of

    return f"{kind_of(Path(ref))}:{ref}"


def _filters(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    from buildstep.net.imgapi import FILTERS
    from buildstep.spec.schema import near

    found = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not (key in FILTERS or (key.startswith("tag.") and key != "tag.")):
            hint = near(key, FILTERS) or f"filters: {', '.join(FILTERS)}, tag.KEY"
            raise click.BadParameter(f"{value!r} is no filter KEY=VALUE; {hint}")
        found[key] = text
    return found


@command.command("list")
@click.argument("filters", nargs=-1, callback=_filters, metavar="[KEY=VALUE]...")
@click.option("--remote", is_flag=True, help="List what the configured repositories have.")
@click.option("--channel", metavar="C", default="", help="Of a server with channels; * for all of them.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Show no more than so many.")
@_POOL
@_SOURCE
@_JSON
def list_(
    filters: dict[str, str], remote: bool, channel: str, limit: int | None, pool: str | None,
    sources: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """List the images in the store, or in repositories.

    Filters are IMGAPI's, and all of them must fit: name, version, os, type, state, owner, public, tag.KEY...;
    a value that begins with ~ is a part of what is looked for, one with ! is what it must not be.
    """
    from itertools import islice

    from buildstep.cli.session import enclosed, guarded, open_session

    channel = filters.pop("channel", channel)

    def there() -> int:
        session = open_session(pool, quiet=False, healing=False, sources=sources)
        found = session.store.remote.images(channel=channel, filters=filters)
        rows = [{**manifest, "source": label} for label, manifest in islice(found, limit)]
        if as_json:
            click.echo(json.dumps({"images": rows}, indent=2))
            return 0
        for row in rows:
            name = f"{row.get('name')}@{row.get('version')}"
            day = str(row.get("published_at", ""))[:10]
            size = _file_size(row)
            click.echo(f"{row.get('uuid')}  {name:40} {size:>10}  {day:10}  {row.get('os')}  {row['source']}")
        return 0

    def here() -> int:
        from buildstep.images.repositories import filtered
        from buildstep.system.text import size_text

        records = {
            record.uuid: record for record in open_session(pool, quiet=True, healing=False).store.records()
        }
        manifests = iter([dict(record.manifest) for record in records.values()])
        kept = [records[row["uuid"]] for row in islice(filtered(manifests, filters), limit)]
        if as_json:
            click.echo(json.dumps({"images": [_json_of(record, whole=False) for record in kept]}, indent=2))
            return 0
        for record in kept:
            day = time.strftime("%Y-%m-%d", time.gmtime(record.imported))
            name = f"{record.name}@{record.version}"
            click.echo(f"{record.uuid}  {name:40} {size_text(record.size):>10}  {day}  {record.label}")
        return 0

    return guarded(there, debug=False) if remote else enclosed(here)


def _file_size(manifest: Mapping[str, Any]) -> str:
    from buildstep.system.text import size_text

    files = manifest.get("files")
    size = files[0].get("size") if isinstance(files, list) and files and isinstance(files[0], dict) else None
    return size_text(size) if isinstance(size, int) else "-"


@command.command("show")
@click.argument("ref")
@click.option("--remote", is_flag=True, help="Show the manifest that a repository has.")
@_POOL
@_SOURCE
@click.option("--json", "_as_json", is_flag=True, help="As it is anyway: one JSON object.")
def show(ref: str, remote: bool, pool: str | None, sources: tuple[str, ...], _as_json: bool) -> int:
    """Print everything the store knows of an image, as JSON."""
    from buildstep.cli.session import enclosed, open_session

    def job() -> int:
        store = open_session(pool, quiet=True, healing=False, sources=sources).store
        if remote:
            label, manifest = store.remote.manifest(ref)
            click.echo(json.dumps({**manifest, "source": label}, indent=2))
        else:
            click.echo(json.dumps(_json_of(store.get(_locator(ref)), whole=True), indent=2))
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
        records = [store.get(_locator(ref)) for ref in refs] or store.records()
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
@_JSON
def delete(refs: tuple[str, ...], pool: str | None, as_json: bool) -> int:
    """Remove images from the store; one that images, layers or builds stand on is refused."""
    from buildstep.cli.session import enclosed, open_session

    def job() -> int:
        store = open_session(pool, quiet=True).store
        gone = []
        for record in [store.get(_locator(ref)) for ref in refs]:
            store.delete(record)
            gone.append(record.uuid)
            if not as_json:
                click.echo(f"{record.uuid} deleted")
        if as_json:
            click.echo(json.dumps({"deleted": gone}, indent=2))
        return 0

    return enclosed(job)


@command.command("gc")
@click.option(
    "--unused",
    metavar="DAYS",
    type=click.FloatRange(0),
    help="Remove what was not used for so long (default: cache.images_days, 30).",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed.")
@_POOL
@_JSON
def gc(unused: float | None, dry_run: bool, pool: str | None, as_json: bool) -> int:
    """Remove images that no build asked for lately. What a kept image stands on is kept."""
    from dataclasses import asdict

    from buildstep.cli.session import enclosed, open_session

    def job() -> int:
        from buildstep.images.gc import collect

        session = open_session(pool, quiet=True, healing=not dry_run)
        days = session.config.images_days if unused is None else unused
        rows = collect(session.store, unused_seconds=days * 86400, dry_run=dry_run)
        if as_json:
            click.echo(json.dumps({"images": [asdict(row) for row in rows]}, indent=2))
            return 0
        for row in rows:
            word = ("would go" if dry_run else "removed") if row.removed else "kept"
            click.echo(f"{word:8}  {row.uuid or '-':36}  {row.name:40}  {row.reason}")
        return 0

    return enclosed(job)
