"""One page about what differs between two trees, for a browser with no network, of the report's parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from buildstep.report.rendering import asset, environment, policy
from buildstep.system.text import size_text

_SCRIPTS = ("page.js", "charts.js", "diff.js")

ROWS = 1000
"""Changes that a table of the page has, the largest; the JSON has all of them."""

_CELLS = 3000
"""Files that the treemap is drawn of, the largest."""

_TABLES = (
    ("added", "Added", "only the new tree has it"),
    ("removed", "Removed", "only the old tree has it"),
    ("changed", "Changed", "both have it, and not the same"),
    ("moved", "Moved", "the same content under another path"),
)


def render(diff: Mapping[str, Any], out: IO[bytes]) -> None:
    """Write the page of a comparison. diff: the object that `buildstep files diff --json` prints."""
    from markupsafe import Markup

    css, script = asset("report.css") + asset("diff.css"), "".join(asset(name) for name in _SCRIPTS)
    changes = sorted(diff["changes"], key=lambda row: (-_touched(row), row["path"]))
    tables = []
    for word, title, about in _TABLES:
        rows = [row for row in changes if row["change"] == word]
        if rows:
            tables.append(
                {"word": word, "title": title, "about": about, "all": len(rows), "rows": rows[:ROWS]}
            )
    cells = _cells(changes)
    # Any path or package may be hostile: jinja2 escapes all of it.
    pieces = (
        environment()
        .get_template("diff.html.j2")
        .generate(
            css=Markup(css),  # noqa: S704 - ours, and a style element is not parsed for markup
            script=Markup(script),  # noqa: S704
            csp=policy(css, script),
            diff=diff,
            tables=tables,
            cells=cells,
            directories=diff["directories"][:ROWS],
            exceeded=[row for row in diff["gate"] if not row["ok"]],
            layers=_layers(diff["layers"]),
            same_layers=sum(row["change"] == "same" for row in (diff["layers"] or {}).get("changes", ())),
            data={"files": cells, "trend": []},
        )
    )
    for piece in pieces:
        out.write(piece.encode(errors="replace"))


def _layers(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return what became of each layer, with the layer itself and the one that it came in place of."""
    if found is None:
        return []
    rows = []
    for change in found["changes"]:
        old = found["old"][change["old"] - 1] if change["old"] else None
        new = found["new"][change["new"] - 1] if change["new"] else None
        before = old if change["change"] == "replaced" else None
        rows.append({"change": change, "layer": new or old, "before": before})
    return rows


def _touched(row: Mapping[str, Any]) -> int:
    """Return the bytes of content that a change puts in or takes away."""
    if (
        row["change"] == "changed"
        and "content" not in row.get("what", ())
        and "size" not in row.get("what", ())
    ):
        return abs(int(row["bytes"]))
    sides = (row.get("old", {}), row.get("new", {}))
    return max((int(side.get("size", 0)) for side in sides if "linked_to" not in side), default=0)


def _cells(changes: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, str, str]]:
    """Return the files of the treemap: path, bytes, what became of it, and that in words."""
    cells = []
    for row in changes[:_CELLS]:
        if size := _touched(row):
            old, new = row.get("old", {}).get("size", 0), row.get("new", {}).get("size", 0)
            both = f"{size_text(old)} -> {size_text(new)}" if row["change"] == "changed" else size_text(size)
            cells.append((row["path"], size, row["change"], f"{row['change']}, {both}"))
    return cells
