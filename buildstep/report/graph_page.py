"""A graph of components as a drawing, alone or in a page for a browser with no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Final

from buildstep.report.graph_layout import BOX, lay_out
from buildstep.report.rendering import asset, environment, policy
from buildstep.report.timeline import Span, lanes, ticks
from buildstep.system.text import printable

_SCRIPTS = ("page.js", "diff.js", "graph.js")
_STYLES = ("report.css", "diff.css", "graph.css")

LONGEST: Final = 44
"""Characters of a box's text; the rest is in its title."""

STATES: Final[Mapping[str, str]] = {
    "run": "to run",
    "check": "to check",
    "reuse": "reused",
    "built": "built",
    "failed": "failed",
    "blocked": "blocked",
    "stopped": "stopped",
}
"""What a box can be, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A component in a drawing. state: one of STATES. note: its second line, such as a time or a reason.
    title: what a pointer on it shows. dim: it is there only because others need it."""

    name: str
    state: str
    note: str = ""
    title: str = ""
    dim: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A graph to draw. levels: names; edges: pairs of them, with why the second needs the first."""

    title: str
    subtitle: str
    boxes: Sequence[Box]
    levels: Sequence[Sequence[str]]
    edges: Mapping[tuple[str, str], str]


def render_svg(drawing: Drawing, out: IO[bytes]) -> None:
    """Write the drawing as a file of its own. It follows the reader's light or dark."""
    clean = _clean(drawing)
    text = (
        environment()
        .get_template("graph.svg.j2")
        .render(**_facts(clean), css=_marked(asset("graph_alone.css")))
    )
    out.write(text.encode(errors="replace") + b"\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """How the jobs of a graph ran. seconds: all of it; saved: what was reused would have taken."""

    spans: Sequence[Span]
    seconds: float
    saved: float = 0.0


def render_page(
    drawing: Drawing,
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    out: IO[bytes],
    run: Run | None = None,
) -> None:
    """Write the drawing as a page, with its jobs as a table.

    rows: `name`, `component`, `state`, `reason`, `seconds` and `needs` of each. notes: lines for a person.
    run: for a timeline.
    """
    clean = _clean(drawing)
    css = "".join(asset(name) for name in _STYLES)
    script = "".join(asset(name) for name in _SCRIPTS)
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    text = (
        environment()
        .get_template("graph.html.j2")
        .render(
            **_facts(clean),
            css=_marked(css),
            script=_marked(script),
            csp=policy(css, script),
            rows=rows,
            notes=notes,
            counts={state: count for state, count in counts.items() if count},
            words=STATES,
            run=run,
            lanes=lanes(run.spans, run.seconds) if run else [],
            ticks=ticks(max(run.seconds, 1e-6)) if run else [],
            critical=[span for span in run.spans if span.critical] if run else [],
            data={"edges": [list(edge) for edge in sorted(clean.edges)]},
        )
    )
    out.write(text.encode(errors="replace"))


def _clean(drawing: Drawing) -> Drawing:
    """Return a drawing whose texts can be in XML, which has no control characters."""
    boxes = [
        replace(box, name=printable(box.name), note=printable(box.note), title=_lines(box.title))
        for box in drawing.boxes
    ]
    return Drawing(
        title=printable(drawing.title),
        subtitle=printable(drawing.subtitle),
        boxes=boxes,
        levels=[[printable(name) for name in names] for names in drawing.levels],
        edges={
            (printable(start), printable(end)): printable(why) for (start, end), why in drawing.edges.items()
        },
    )


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def _marked(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - a template of ours


def _facts(drawing: Drawing) -> dict[str, Any]:
    """Return what both templates need."""
    notes = {box.name: _cut(box.note) for box in drawing.boxes}
    # About how wide a text is at 13 px, and at 11 px for the second line.
    widths = {
        box.name: 34 + max(7.6 * len(_cut(box.name)), 6.3 * len(notes[box.name]), 60) for box in drawing.boxes
    }
    layout = lay_out(drawing.levels, drawing.edges, widths)
    boxes = [
        {"box": box, "at": layout.boxes[box.name], "name": _cut(box.name), "note": notes[box.name]}
        for box in drawing.boxes
    ]
    lines = [
        {"from": start, "to": to, "path": path, "why": drawing.edges[start, to]}
        for (start, to), path in layout.lines.items()
    ]
    return {
        "drawing": drawing,
        "layout": layout,
        "boxes": boxes,
        "lines": lines,
        "height": BOX,
        "used": [
            (state, word)
            for state, word in STATES.items()
            if any(box.state == state for box in drawing.boxes)
        ],
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
