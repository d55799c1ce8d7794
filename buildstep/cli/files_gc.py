"""`buildstep files gc`: delete what no ref reaches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli.files_options import Work, with_work
from buildstep.cli.options import JSON, show
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.files.gc import Collected

_HOURS = 24.0


@click.command("gc")
@click.option(
    "--grace",
    metavar="HOURS",
    type=click.FloatRange(min=0),
    default=_HOURS,
    show_default=True,
    help="What was stored in the last HOURS stays: an interrupted put goes on with it.",
)
@click.option("--dry-run", is_flag=True, help="Only tell what would go, and why; change nothing.")
@with_work
@JSON
def command(work: Work, grace: float, dry_run: bool, as_json: bool) -> None:
    """Delete what no ref reaches, beside whoever reads and writes.

    What somebody who uses the store at the moment may rely on stays until the next gc. Packs of which more
    than three tenths are garbage are written anew. Files that only checkouts with --hardlink shared go as
    well. Where a list or a pack is damaged nothing is deleted.
    """
    from buildstep.files import gc
    from buildstep.files.checkout_farm import sweep_links

    store = work.open()
    found = gc.collect(store, grace=grace * 3600, dry_run=dry_run)
    links, size = sweep_links(store, dry_run=dry_run)
    facts = {**_facts(found, dry_run=dry_run), "links": links, "links_bytes": size}
    lines = [*_lines(found, dry_run=dry_run)]
    if links:
        what = f"{plural(links, 'shared file')} that no checkout has any more, {size_text(size)}"
        lines.append(f"{what}{', would be' if dry_run else ''} deleted")
    done = f"{plural(len(found.deleted), 'file')} deleted, {size_text(sum(found.deleted.values()))}"
    show(facts, lines, as_json=as_json, done=done)


def _facts(found: Collected, *, dry_run: bool) -> dict[str, Any]:
    def rows(names: dict[str, int]) -> list[dict[str, Any]]:
        return [
            {"name": name, "bytes": size, "reason": found.reasons.get(name, "")}
            for name, size in names.items()
        ]

    return {
        "dry_run": dry_run,
        "deleted": rows(dict(found.deleted)),
        "waiting": rows(dict(found.waiting)),
        "bytes": sum(found.deleted.values()),
        "held_by": list(found.held_by),
        "rewritten_packs": found.rewritten,
        "written_bytes": found.written,
        "adopted_packs": found.adopted,
        "damaged": list(found.damaged),
    }


def _lines(found: Collected, *, dry_run: bool) -> Iterator[str]:
    if dry_run:
        for name, size in found.deleted.items():
            yield f"{size_text(size):>10}  {name}: {found.reasons[name]}"
    total = size_text(sum(found.deleted.values()))
    yield f"{plural(len(found.deleted), 'file')} {'would be ' if dry_run else ''}deleted, {total}"
    if found.rewritten:
        written = "" if dry_run else f", {size_text(found.written)}"
        yield f"{plural(found.rewritten, 'pack')} {'would be ' if dry_run else ''}written anew{written}"
    if found.adopted:
        yield f"{plural(found.adopted, 'pack')} of killed writers put into the catalogue"
    if found.waiting:
        waiting = size_text(sum(found.waiting.values()))
        yield f"{plural(len(found.waiting), 'file')}, {waiting}, left to the next gc; the store is used by:"
        yield from (f"  {holder}" for holder in found.held_by)
    for name in found.damaged:
        yield f"{name} is damaged, and stays: `buildstep files verify --repair`"
