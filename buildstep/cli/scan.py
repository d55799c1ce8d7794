"""`buildstep scan`: known vulnerabilities of an image by databases that are here, and making these."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, POOL, echo, tell, write_result, writing
from buildstep.trust.sidecars import RECORD
from buildstep.trust.vulnerabilities.model import LEVELS

if TYPE_CHECKING:
    from buildstep.trust.inventory.model import Inventory
    from buildstep.trust.vulnerabilities.gate import Asked
    from buildstep.trust.vulnerabilities.model import Result

FORMATS = ("text", "json", "sarif")
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_OUT = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


@click.command(
    "scan",
    epilog="Exit codes: 0 nothing that counts, 35 vulnerable, 36 no database or none for this system, or one"
    " that is too old, 2 usage, 6 disk, 10 dataset, 11 image.",
)
@click.argument(
    "image", metavar="IMAGE|RECORD|ARCHIVE|SBOM", required=False, shell_complete=values.IMPORTABLE
)
@click.option(
    "--import", "feeds", multiple=True, type=_FILE, metavar="FILE",
    help="Make a database of a download: Debian's tracker (JSON), a zip of OSV, pkg-vulnerabilities, a list"
    " of debsecan; repeat for several.",
)  # fmt: skip
@click.option(
    "--date", type=click.DateTime(["%Y-%m-%d"]), metavar="DAY",
    help="With --import: the day of a download that does not say it itself (default: its file's time).",
)  # fmt: skip
@click.option(
    "--db", "folder", metavar="DIR", envvar="BUILDSTEP_VULNERABILITY_DB", show_envvar=True, default="",
    type=click.Path(), help="The databases, or one download (default: vulnerabilities beside the pool).",
)  # fmt: skip
@click.option(
    "--fail", type=click.Choice([*LEVELS, "none"]), default="low", show_default=True,
    help="The least severity that counts.",
)  # fmt: skip
@click.option("--fixed-only", is_flag=True, help="Count only what a newer version repairs.")
@click.option("--ignore-unknown", is_flag=True, help="Do not count what has no severity; else it counts.")
@click.option("--eol", is_flag=True, help="Count packages too that nobody looks after any more.")
@click.option("--complete", is_flag=True, help="Demand a database for every kind of package.")
@click.option("--max-age", metavar="DAYS", help="How old a database may be: 7, 7d, 12h (default: any age).")
@click.option(
    "--exceptions", multiple=True, type=_FILE, metavar="FILE",
    help="Vulnerabilities that may be there for a while, each with its reason (TOML).",
)  # fmt: skip
@click.option("--vex", multiple=True, type=_FILE, metavar="FILE", help="Statements of others (OpenVEX).")
@click.option("--vex-out", type=_OUT, metavar="FILE", help="Write what is found as OpenVEX.")
@click.option("--all", "everything", is_flag=True, help="Show also what does not count.")
@click.option("-f", "--format", "format_name", type=click.Choice(FORMATS), help="Default: text.")
@JSON
@click.option(
    "-o", "--output", type=_OUT, default=Path("-"), metavar="FILE", show_default="standard output",
    help="Where to write; appears only when it is complete.",
)  # fmt: skip
@POOL
def command(image: str | None, feeds: tuple[Path, ...], **given: Any) -> int | None:
    """Look up what is known of the packages of an image. Nothing is asked of the network.

    IMAGE|RECORD|ARCHIVE|SBOM: as for `buildstep sbom`; or a bill of materials that anybody wrote (SPDX,
    CycloneDX). Packages of a distribution are looked up by their source package and its version. What a
    distribution will not repair is told, and does not count. Without IMAGE, the databases are listed.
    """
    from buildstep.errors import UsageError

    if given["date"] and not feeds:
        raise UsageError("--date belongs to --import")
    if feeds:
        _import(feeds, given)
    elif not image:
        _list(given)
    return _scan(image, given) if image else None


def _import(feeds: tuple[Path, ...], given: dict[str, Any]) -> None:
    from datetime import UTC

    from buildstep.system.text import plural
    from buildstep.trust.vulnerabilities import directory

    day = given["date"].replace(tzinfo=UTC).timestamp() if given["date"] else None
    place = directory.place(given["folder"], os.environ)
    with writing(place / "database"):
        made = directory.import_files(feeds, place, updated=day, note=lambda text: tell(f"note: {text}"))
    for feed in made:
        dated = time.strftime("%Y-%m-%d", time.gmtime(feed.updated))
        tell(f"{feed.name}: {plural(feed.rows, 'advisory row')} of {dated} ({feed.dated}) in {place}")


def _list(given: dict[str, Any]) -> None:
    """Print which databases there are."""
    import json

    from buildstep.trust.vulnerabilities import directory
    from buildstep.trust.vulnerabilities.render import feed_row

    found = directory.ready(directory.place(given["folder"], os.environ))
    rows = [feed_row(feed, time.time()) for feed in found]
    if given["as_json"] or given["format_name"] == "json":
        echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        age = f"{row['age_days']:.0f} days old; {row['dated']}"
        echo(f"{row['name']}: {row['rows']:,} rows, of {row['updated'][:10]} ({age})")


def _scan(image: str, given: dict[str, Any]) -> int | None:
    """Look an image up; what was found is written before the gate fails."""
    from buildstep.errors import VulnerableError
    from buildstep.trust.vulnerabilities import gate, render, vex

    asked = _asked(given)  # before anything is read
    chosen = given["format_name"] or ("json" if given["as_json"] else "text")
    inventory, more = _inventory(image, given["pool"])
    result = gate.scan(inventory, asked, now=time.time())
    for text in (*more, *render.notes(result)):
        tell(f"note: {text}")
    text = render.FORMATS[chosen](result, asked.gate, everything=given["everything"] or not asked.gate.fail)
    if given["vex_out"] is not None:
        write_result(given["vex_out"], vex.document(result, now=_now(result)))
    write_result(given["output"], text.encode())
    try:
        gate.demand(result, asked.gate)
    except VulnerableError as error:
        if chosen == "text" and str(given["output"]) == "-":
            error.detail = ""  # it was just shown
        raise
    return None


def _now(result: Result) -> float:
    """Return the time of a document: that of the build where one is set, so that it repeats bit by bit."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return float(epoch) if epoch.isdigit() else result.started


def _asked(given: dict[str, Any]) -> Asked:
    from buildstep.errors import UsageError
    from buildstep.trust.vulnerabilities import directory, gate
    from buildstep.trust.vulnerabilities.model import Gate

    try:
        limits = Gate(
            fail="" if given["fail"] == "none" else given["fail"],
            fixed_only=given["fixed_only"],
            unknown=not given["ignore_unknown"],
            eol=given["eol"],
            complete=given["complete"],
            max_age=gate.days(given["max_age"]) if given["max_age"] is not None else None,
        )
    except ValueError as error:
        raise UsageError(f"--max-age: {error}") from error
    return gate.asked(
        directory.place(given["folder"], os.environ),
        limits,
        exception_files=given["exceptions"],
        vex_files=given["vex"],
    )


def _inventory(image: str, pool: str | None) -> tuple[Inventory, tuple[str, ...]]:
    """Return what an image is made of, and what a person has to know besides."""
    from buildstep.cli.inventories import looked_at
    from buildstep.trust.vulnerabilities import bill_subject

    path = Path(image)
    records = sorted(path.glob(f"*{RECORD}")) if path.is_dir() else []
    if len(records) == 1:
        image = os.fspath(records[0])
    if path.is_file() and bill_subject.is_bill(path):
        return bill_subject.inventory_of(path), ()
    with looked_at(image, pool) as found:
        return found.inventory, tuple(found.notes)
