"""`buildstep files get`: from a store the tree of a list again."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.files_options import PATHS, Work, with_work
from buildstep.cli.options import JSON, QUIET, show, tell
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.files.checkout_options import Report


def _time(_ctx: click.Context, _param: click.Parameter, value: str) -> int | None:
    if value == "keep":
        return None
    if value == "now":
        return time.time_ns()
    if re.fullmatch(r"[0-9]{1,15}", value) is None:
        raise click.BadParameter(f"{value!r} is not keep, now or a number of seconds since 1970")
    return int(value) * 10**9


@click.command("get")
@click.argument("name", metavar="LIST", shell_complete=values.REFS)
@click.argument("dest", metavar="DEST", shell_complete=values.FOLDERS)
@PATHS
@click.option("--update", is_flag=True, help="Change a tree that is there; only what differs is touched.")
@click.option("--delete", is_flag=True, help="With --update: remove what is not in the list.")
@click.option("--check-content", is_flag=True, help="With --update: read every file, whatever its time.")
@click.option("--swap", is_flag=True, help="Replace a tree that is there by a new one, in one step.")
@click.option(
    "--hardlink", is_flag=True, help="Share files with other checkouts: for trees that are only read."
)
@click.option("--strict", is_flag=True, help="Fail where owners, devices or attributes cannot be made.")
@click.option(
    "--mtime",
    metavar="keep|now|SECONDS",
    default="keep",
    callback=_time,
    shell_complete=values.TIMES,
    help="The time that everything gets (default: keep that of the list).",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@with_work
@JSON
@QUIET
def command(
    work: Work, name: str, dest: str, *, paths: tuple[str, ...], as_json: bool, quiet: bool, **how: Any
) -> None:
    """Make the tree of a list at DEST: a directory that is missing or empty, or any with --update or --swap.

    LIST: a ref; a list digest or a tree digest, or their first digits; file:PATH, a list in a file.
    DEST.erofs and DEST.squashfs are written as images of a file system, with the same bytes each time.

    Every content is verified before its file has its name. Root gets the tree as it is listed. Another user
    gets what he can have: what is left out is counted on standard error.
    """
    from buildstep.errors import UsageError
    from buildstep.files import image_file
    from buildstep.files.checkout import Options, checkout
    from buildstep.files.checkout_plan import subset
    from buildstep.files.lookup import find
    from buildstep.report.progress import progress

    options = Options(**how)
    if options.update and options.swap:
        raise UsageError("--update changes a tree in its place, and --swap replaces it: give one of them")
    if options.delete and not options.update:
        raise UsageError("--delete is for --update")
    store = work.open()
    found = find(store, name)
    entries = subset(found.entries, paths)
    make = checkout if image_file.kind_of(Path(dest)) is None else image_file.make
    report = make(store, entries, Path(dest), options, partial(progress, "get", quiet=quiet))
    value = {"store": store.storage.url, "list": found.digest, "dest": dest, **report.to_json()}
    tell_left_out(report)
    line = f"{dest}  {_told(report, dry_run=options.dry_run)}"
    show({**value, "dry_run": options.dry_run}, [line], as_json=as_json, done=line)


def tell_left_out(report: Report) -> None:
    """Say on standard error what could not be made as listed."""
    for what, count in sorted(report.left_out.items()):
        tell(f"buildstep: left out: {count:,} {what}")


def _told(report: Report, *, dry_run: bool) -> str:
    words = [
        f"{plural(report.files, 'file')} of {size_text(report.size)}",
        f"{plural(report.entries, 'other path')}",
    ]
    words += [f"{report.shared:,} shared"] if report.shared else []
    words += [f"{report.changed:,} changed"] if report.changed else []
    words += [f"{report.same:,} the same"] if report.same else []
    words += [f"{report.removed:,} removed"] if report.removed else []
    words += [f"{report.extra:,} not in the list"] if report.extra else []
    return ("would be made: " if dry_run else "") + ", ".join(words)
