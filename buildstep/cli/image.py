"""`buildstep image`: base images, in a pool and in repositories; and publishing built ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.image_copy import command as copy
from buildstep.cli.image_diff import command as diff
from buildstep.cli.image_outdated import command as outdated
from buildstep.cli.options import JSON, echo, print_json, show, with_session
from buildstep.cli.publish import command as publish

if TYPE_CHECKING:
    from buildstep.cli.session import Session
    from buildstep.images.record import ImageRecord

_SOURCE = click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="URI",
    shell_complete=values.SOURCES,
    help="Look here, and not where buildstep.toml says: https://HOST, dir:PATH, s3://BUCKET; repeat.",
)


@click.group("image")
def command() -> None:
    """Base images: import, list, show, verify, outdated, delete, gc; compare, copy, publish."""


command.add_command(publish)
command.add_command(copy)
command.add_command(diff)
command.add_command(outdated)


def _json_of(record: Any, *, whole: bool) -> dict[str, Any]:
    value: dict[str, Any] = record.to_json()
    if not whole:
        value["packages"] = len(value["packages"])
        value.pop("made_of")
    return {"name": record.name, "version": record.version, **value}


@command.command("import")
@click.argument("ref", metavar="REF|FILE", shell_complete=values.IMPORTABLE)
@click.option(
    "--manifest",
    metavar="FILE",
    shell_complete=values.FILES,
    help="The imgmanifest of FILE: verifies it, and gives it its uuid and name.",
)
@click.option("--platform", metavar="OS/ARCH", help="What the image is to be for, such as linux/arm64.")
@click.option(
    "--policy",
    metavar="FILE",
    shell_complete=values.FILES,
    help="The policy that the image has to keep; what it refuses is not imported.",
)
@with_session()
@_SOURCE
@JSON
@click.option("-v", "--verbose", count=True, help="Show the tools' output.")
def import_(
    session: Session,
    ref: str,
    manifest: str | None,
    platform: str | None,
    policy: str | None,
    as_json: bool,
) -> None:
    """Bring an image into the store; nothing is done when it is there, verified.

    REF: a uuid or name@version of a repository, or a locator: docker://HOST/NAME[:TAG], oci:PATH[:TAG],
    docker-archive:FILE[:NAME[:TAG]], tar:FILE, zfs:FILE[,MANIFEST], mmdebstrap:SUITE, scratch.
    The format of a FILE is found from its content.
    """
    from buildstep.formats.oci.spec import OciPlatform
    from buildstep.images import trusted_base
    from buildstep.images.importing import Importer
    from buildstep.pool.journal import open_journal

    if platform:
        session.store.for_platform(str(OciPlatform.parse(platform)))
    if manifest:
        trusted_base.check_file(Path(ref), session.store, policy)
    else:
        locator = _locator(ref)
        trusted_base.check(locator, session.store, session.store.find(locator), policy)
    with open_journal(session.backend.state, f"import {ref}") as journal:
        importer = Importer(session.store, journal)
        if manifest:
            record, present = importer.import_file(Path(ref), Path(manifest))
        else:
            record, present = importer.ensure(locator)
    line = f"{record.uuid}  {record.name}@{record.version}  {'was there' if present else 'imported'}"
    show({**_json_of(record, whole=False), "present": present}, [line], as_json=as_json, done=line)


def _locator(ref: str) -> str:
    from buildstep.images.opened import locator

    return locator(ref)


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
@click.argument(
    "filters", nargs=-1, callback=_filters, metavar="[KEY=VALUE]...", shell_complete=values.FILTERS
)
@click.option("--remote", is_flag=True, help="List what the configured repositories have.")
@click.option("--channel", metavar="C", default="", help="Of a server with channels; * for all of them.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Show no more than so many.")
@with_session(healing=False)
@_SOURCE
@JSON
def list_(
    session: Session, filters: dict[str, str], remote: bool, channel: str, limit: int | None, as_json: bool
) -> None:
    """List the images in the store, or in repositories.

    Filters are IMGAPI's, and all of them must fit: name, version, os, type, state, owner, public, tag.KEY...;
    a value that begins with ~ is a part of what is looked for, one with ! is what it must not be.
    """
    from buildstep.images.repositories import filtered
    from buildstep.system.text import size_text

    rows: list[dict[str, Any]]
    channel = filters.pop("channel", channel)
    if remote:
        found = session.store.remote.images(channel=channel, filters=filters)
        rows = [{**manifest, "source": label} for label, manifest in islice(found, limit)]
        lines = [
            _line(
                row.get("uuid"), f"{row.get('name')}@{row.get('version')}", _file_size(row),
                str(row.get("published_at", ""))[:10], f"{row.get('os')}  {row['source']}",
            )
            for row in rows
        ]  # fmt: skip
    else:
        records = {record.uuid: record for record in session.store.records()}
        manifests = iter([dict(record.manifest) for record in records.values()])
        kept = [records[row["uuid"]] for row in islice(filtered(manifests, filters), limit)]
        rows = [_json_of(record, whole=False) for record in kept]
        lines = [
            _line(
                it.uuid, f"{it.name}@{it.version}", size_text(it.size),
                time.strftime("%Y-%m-%d", time.gmtime(it.imported)), _label(it, session.store.platform),
            )
            for it in kept
        ]  # fmt: skip
    show({"images": rows}, lines, as_json=as_json)


def _label(record: ImageRecord, here: str) -> str:
    """What an image came from, and what it is for where that is not what images here are for."""
    return record.label if record.is_for(here) else f"{record.label}  for {record.platform}"


def _line(uuid: object, name: str, size: str, day: str, rest: str) -> str:
    return f"{uuid}  {name:40} {size:>10}  {day:10}  {rest}"


def _file_size(manifest: Mapping[str, Any]) -> str:
    from buildstep.system.text import size_text

    files = manifest.get("files")
    size = files[0].get("size") if isinstance(files, list) and files and isinstance(files[0], dict) else None
    return size_text(size) if isinstance(size, int) else "-"


@command.command("show")
@click.argument("ref", shell_complete=values.STORED)
@click.option("--remote", is_flag=True, help="Show the manifest that a repository has.")
@with_session(quiet=True, healing=False)
@_SOURCE
@click.option("--json", "_as_json", is_flag=True, help="As it is anyway: one JSON object.")
def show_(session: Session, ref: str, remote: bool, _as_json: bool) -> None:
    """Print everything the store knows of an image, as JSON: also its layers, and what each of them brings.

    REF: a uuid, name@version, a name that only one image has, or a locator such as docker://HOST/NAME:TAG.
    """
    if remote:
        label, manifest = session.store.remote.manifest(ref)
        print_json({**manifest, "source": label})
    else:
        from buildstep.images.layer_list import layers_of

        record = session.store.get(_locator(ref))
        print_json({**_json_of(record, whole=True), "layers": layers_of(record, session.store)})


@command.command("verify")
@click.argument("refs", nargs=-1, shell_complete=values.STORED)
@with_session(quiet=True)
@JSON
def verify(session: Session, refs: tuple[str, ...], as_json: bool) -> int:
    """Read images (all of them, if none is named) and compare every file with what was imported."""
    from buildstep.errors import BuildstepError, ExitCode

    store = session.store
    rows = []
    for record in [store.get(_locator(ref)) for ref in refs] or store.records():
        problem = ""
        try:
            store.verify(record)
        except BuildstepError as error:
            problem = f"{error.message}: {error.detail}" if error.detail else error.message
        except OSError as error:  # such as a file on a bad block: the other images are read all the same
            problem = f"it cannot be read: {error}"
        rows.append({"uuid": record.uuid, "ok": not problem, "problem": problem})
        if not as_json:
            echo(f"{record.uuid}  {record.name}@{record.version}  {problem or 'OK'}")
    if as_json:
        print_json({"images": rows})
    return ExitCode.OK if all(row["ok"] for row in rows) else ExitCode.IMAGE


@command.command("delete")
@click.argument("refs", nargs=-1, required=True, shell_complete=values.STORED)
@with_session(quiet=True)
@JSON
def delete(session: Session, refs: tuple[str, ...], as_json: bool) -> None:
    """Remove images from the store; one that images, layers or builds depend on is refused."""
    gone = []
    for record in [session.store.get(_locator(ref)) for ref in refs]:
        session.store.delete(record)
        gone.append(record.uuid)
        if not as_json:
            show({}, [f"{record.uuid} deleted"], as_json=False, done=f"{record.uuid} deleted")
    if as_json:
        show({"deleted": gone}, (), as_json=True, done=f"{len(gone)} images deleted")


@command.command("gc")
@click.option(
    "--unused",
    metavar="DAYS",
    type=click.FloatRange(0),
    help="Remove what was not used for so long (default: cache.images_days, 30).",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed.")
@with_session(quiet=True)
@JSON
def gc(session: Session, unused: float | None, dry_run: bool, as_json: bool) -> None:
    """Remove images that no build asked for lately. An image that a kept one depends on is kept."""
    from dataclasses import asdict

    from buildstep.images.gc import collect

    days = session.config.images_days if unused is None else unused
    rows = collect(session.store, unused_seconds=days * 86400, dry_run=dry_run)
    gone = "would go" if dry_run else "removed"
    lines = [
        f"{gone if row.removed else 'kept':8}  {row.uuid or '-':36}  {row.name:40}  {row.reason}"
        for row in rows
    ]
    done = f"{sum(row.removed for row in rows)} images {gone}"
    show({"images": [asdict(row) for row in rows]}, lines, as_json=as_json, done=done)
