"""`buildstep files stats`: how much a store holds, and what is shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli.files_options import Work, with_work
from buildstep.cli.options import JSON, show
from buildstep.system.text import plural, shown_path, size_text

if TYPE_CHECKING:
    from buildstep.files.stats import Stats

_PAIRS = 10


@click.command("stats")
@with_work
@JSON
def command(work: Work, as_json: bool) -> None:
    """Show how much a store holds, what each ref has of its own, what is shared, and what is large."""
    from buildstep.files.stats import stats

    found = stats(work.open())
    show(_facts(found), _lines(found), as_json=as_json)


def _ratio(more: int, less: int) -> float:
    return round(more / less, 2) if less else 1.0


def _compressed(found: Stats) -> float:
    """Return how much smaller the contents are in the store; the garbage lies there as well."""
    return _ratio(found.unique + found.garbage_size, found.stored)


def _facts(found: Stats) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        **asdict(found),
        "dedupe_ratio": _ratio(found.files, found.unique),
        "compression_ratio": _compressed(found),
        "ratio": _ratio(found.files, found.stored),
        "largest": [{**asdict(large), "path": shown_path(large.path)} for large in found.largest],
    }


def _lines(found: Stats) -> Iterator[str]:
    yield f"files     {size_text(found.files):>10}  in {plural(len(found.refs), 'ref')}"
    yield f"contents  {size_text(found.unique):>10}  {plural(found.contents, 'content')}, each once"
    yield (
        f"stored    {size_text(found.stored):>10}  in {plural(found.packs, 'pack')}, "
        f"{plural(found.objects, 'object')}, {plural(found.lists, 'list')}"
    )
    deduped, compressed = _ratio(found.files, found.unique), _compressed(found)
    yield (
        f"ratio     {_ratio(found.files, found.stored):10}  {deduped} as each content is there once, "
        f"{compressed} by compression"
    )
    if found.garbage:
        count = plural(found.garbage, "content")
        size = size_text(found.garbage_size)
        yield f"garbage   {size:>10}  {count} that no ref reaches: `buildstep files gc`"
    if found.refs:
        yield ""
        width = max(3, *(len(ref.name) for ref in found.refs))
        yield f"{'ref':{width}}  {'files':>9}  {'bytes':>10}  {'its own':>10}  {'shared':>10}"
        for ref in found.refs:
            sizes = "  ".join(f"{size_text(size):>10}" for size in (ref.size, ref.own, ref.shared))
            yield f"{ref.name:{width}}  {ref.files:9,}  {sizes}"
    if found.pairs:
        yield ""
        yield "shared by two refs, most first:"
        for pair in found.pairs[:_PAIRS]:
            count = plural(pair.contents, "content")
            yield f"{size_text(pair.size):>10}  {count}: {pair.first}, {pair.second}"
        if len(found.pairs) > _PAIRS:
            yield f"            and {len(found.pairs) - _PAIRS:,} more pairs (--json)"
    if found.largest:
        yield ""
        yield "largest contents:"
        for large in found.largest:
            where = shown_path(large.path) if large.path else large.digest[:12]
            more = f", and in {plural(large.refs - 1, 'other ref')}" if large.refs > 1 else ""
            yield f"{size_text(large.size):>10}  {where} in {large.ref}{more}"
