"""What became of the layers of an image, as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from buildstep.files.compare_layers import Layer, LayerChange, LayerDiff, Layers
from buildstep.system.text import plural, printable, size_text

_MARKS = {
    "same": ("=", ""), "recompressed": ("~", "yellow"), "replaced": ("~", "yellow"), "added": ("+", "green"),
    "removed": ("-", "red"),
}  # fmt: skip
_TITLE = 60
"""Characters of a title that are shown: a foreign history has whole scripts."""


def to_json(found: LayerDiff) -> dict[str, Any]:
    """Return the layers of both images, and what became of each."""
    return {
        "old": [_row(row, number) for number, row in enumerate(found.old.rows, 1)],
        "new": [_row(row, number) for number, row in enumerate(found.new.rows, 1)],
        "changes": [{"change": it.word, "old": it.old, "new": it.new} for it in found.changes],
        "bytes_to_fetch": found.fetched,
    }


def _row(row: Layer, number: int) -> dict[str, Any]:
    files, length, removed = row.brought or (None, None, None)
    return {
        "number": number, "digest": row.digest or None, "diff_id": row.diff_id or None, "size": row.size,
        "title": row.title, "created_by": row.created_by, "base": row.base, "files": files, "bytes": length,
        "removed": removed, "packages": list(row.packages),
    }  # fmt: skip


def lines(found: LayerDiff) -> Iterator[tuple[str, str]]:
    """Yield the layers for a person, each with the name of a colour."""
    same = sum(it.word == "same" for it in found.changes)
    fetch = f"; who has the old image fetches {size_text(found.fetched)}" if same < len(found.changes) else ""
    yield "", ""
    yield f"layers: {same} of {len(found.new.rows)} are the same{fetch}", "bold"
    for it in found.changes:
        mark, colour = _MARKS[it.word]
        yield f"  {mark} {_line(it, found)}", colour


def _line(it: LayerChange, found: LayerDiff) -> str:
    old, new = _at(found.old, it.old), _at(found.new, it.new)
    row = new or old
    assert row is not None
    number = f"{it.new:>2}" if it.new else " -"
    size = size_text(row.size) if row.size is not None else "?"
    if it.word == "replaced" and old is not None and old.size is not None:
        size = f"{size_text(old.size)} -> {size}"
    title = printable(row.title)[:_TITLE] or row.digest[:12]
    facts: list[str] = [] if it.word == "same" else [it.word]
    if it.word == "removed":
        facts = [f"layer {it.old} of the old image"]
    elif it.old and it.old != it.new:
        facts.append(f"was {it.old}")
    if row.brought is not None and it.word not in ("same", "removed"):
        facts.append(f"{plural(row.brought.files, 'file')} of {size_text(row.brought.bytes)}")
        facts += [f"{row.brought.removed:,} removed"] if row.brought.removed else []
        facts += [plural(len(row.packages), "package")] if row.packages else []
    more = f"  ({'; '.join(facts)})" if facts else ""
    return f"{number}  {title}  {size}{more}"


def _at(layers: Layers, number: int | None) -> Layer | None:
    return None if number is None else layers.rows[number - 1]
