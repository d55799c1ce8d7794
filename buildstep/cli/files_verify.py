"""`buildstep files verify`: whether a store is whole, and its repair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.files_options import Work, with_work
from buildstep.cli.options import JSON, show
from buildstep.system.text import plural, shown_path, size_text

if TYPE_CHECKING:
    from buildstep.files.repair import Repaired
    from buildstep.files.verify import Damage, Report


@click.command("verify")
@click.option("--quick", is_flag=True, help="Only check that all is there; do not read and hash it.")
@click.option("--repair", is_flag=True, help="Put aside what is damaged, so that it is stored again.")
@click.option(
    "--repair-from",
    metavar="STORE",
    shell_complete=values.STORES,
    help="Repair, and get what is lost from this store.",
)
@with_work
@JSON
def command(work: Work, quick: bool, repair: bool, repair_from: str | None, as_json: bool) -> int:
    """Check that everything in a store is what its name says, and that all that the refs keep is there.

    Each damage is named, with the refs and paths that it hits. A repair moves what is damaged to quarantine/
    in the store: the next put of the same content stores it again. What is whole in a damaged pack is kept,
    and the list of packs is made anew. Exit code 16 if damage is left.
    """
    from buildstep.errors import ExitCode
    from buildstep.files.repair import repair as mend
    from buildstep.files.verify import verify

    store = work.open()
    found = verify(store, quick=quick)
    done = None
    if found.damage and (repair or repair_from):
        done = mend(store, found, work.open(repair_from) if repair_from else None)
    left = found if done is None else done.left
    summary = f"{len(left.damage)} damaged"
    show(_facts(found, done), _lines(found, done), as_json=as_json, done=summary)
    return ExitCode.STORE if left.damage else ExitCode.OK


def _facts(found: Report, done: Repaired | None) -> dict[str, Any]:
    left = found if done is None else done.left
    return {
        "refs": found.refs,
        "lists": found.lists,
        "packs": found.packs,
        "objects": found.objects,
        "contents": found.contents,
        "bytes": found.size,
        "damaged": [_row(damage) for damage in found.damage],
        "quarantined": [] if done is None else list(done.quarantined),
        "fetched": [] if done is None else list(done.fetched),
        "left": [_row(damage) for damage in left.damage],
    }


def _row(damage: Damage) -> dict[str, Any]:
    return {
        "name": damage.name,
        "problem": damage.problem,
        "contents": list(damage.contents),
        "refs": list(damage.refs),
        "paths": [{"ref": hit.ref, "path": shown_path(hit.path)} for hit in damage.hits if hit.path],
    }


def _lines(found: Report, done: Repaired | None) -> Iterator[str]:
    for damage in found.damage:
        yield from _words(damage)
    if done is not None:
        yield f"put aside in quarantine/: {plural(len(done.quarantined), 'file')}"
        if done.fetched:
            yield f"from the other store: {plural(len(done.fetched), 'content')}"
        if done.left.damage:
            yield "still damaged:"
            for damage in done.left.damage:
                yield from _words(damage)
    there = f"{plural(found.contents, 'content')} in {plural(found.packs, 'pack')} and"
    there += (
        f" {plural(found.objects, 'object')}, {size_text(found.size)}, kept by {plural(found.refs, 'ref')}"
    )
    yield f"{there}: {len(found.damage) or 'none'} damaged"
    if done is None and found.damage:
        yield "--repair puts it aside, so that it is stored again; --repair-from STORE gets it from there"


def _words(damage: Damage) -> Iterator[str]:
    yield f"{damage.name}: {damage.problem}"
    if damage.refs:
        yield f"  needed by {', '.join(damage.refs)}"
    for hit in damage.hits:
        yield f"    {hit.ref}: {shown_path(hit.path) if hit.path else 'a content that the ref names'}"
