"""The results as an SVG: a group of bars per case on a logarithmic axis of seconds, our bars as marks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

from bench.results import median

COLOURS = {
    "ours": "#0b6e4f",
    "buildah": "#c8553d",
    "podman": "#e09f3e",
    "mkosi": "#7d5ba6",
    "script": "#8d99ae",
}
WIDTH, LEFT, RIGHT, BAR, GAP = 960, 250, 70, 13, 14


def render(results: Mapping[str, Any]) -> str:
    """An SVG document."""
    groups = [
        (workload["name"], case)
        for workload in results["workloads"]
        for case in workload.get("cases", [])
        if any(median(cell) is not None for cell in case["engines"].values())
    ]
    times = [t for _, case in groups for cell in case["engines"].values() if (t := median(cell)) is not None]
    times += [case["bar"] for _, case in groups if case["bar"] is not None]
    low = math.floor(math.log10(min(times, default=0.1)))
    high = max(math.ceil(math.log10(max(times, default=10.0))), low + 1)

    def x(seconds: float) -> float:
        share = (math.log10(max(seconds, 10.0**low)) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    body: list[str] = []
    top = 70.0
    for name, case in groups:
        cells = [(engine, median(cell)) for engine, cell in case["engines"].items()]
        shown = [(engine, seconds) for engine, seconds in cells if seconds is not None]
        height = len(shown) * BAR
        body += _label(LEFT - 10, top + height / 2, f"{name}: {case['title']}", anchor="end")
        for row, (engine, seconds) in enumerate(shown):
            y = top + row * BAR
            body.append(
                f'<rect x="{LEFT}" y="{y:.1f}" width="{x(seconds) - LEFT:.1f}" height="{BAR - 2}" '
                f'fill="{COLOURS.get(engine, "#555")}"/>'
            )
            body += _label(x(seconds) + 5, y + BAR / 2 - 1, f"{seconds:.2f}", size=10)
        if case["bar"] is not None:
            at = x(case["bar"])
            body.append(
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top - 3:.1f}" y2="{top + height + 1:.1f}" '
                'stroke="#111" stroke-width="2"/>'
            )
        top += height + GAP
    axis = list(_axis(low, high, x, top))
    used = dict.fromkeys(engine for _, case in groups for engine in case["engines"])
    size, font = f'width="{WIDTH}" height="{top + 30:.0f}"', 'font-family="sans-serif"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {top + 30:.0f}" {font}>',
        f'<rect {size} fill="#fff"/>',
        *_label(LEFT, 18, f"Seconds per build, median; {results['date']}", size=14),
        *_legend(list(used)),
        *axis,
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _label(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> list[str]:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="middle"'
    return [f'<text {place} font-size="{size}" fill="#222">{escape(text)}</text>']


def _legend(engines: list[str]) -> Iterator[str]:
    at = LEFT
    for engine in engines:
        yield f'<rect x="{at}" y="34" width="11" height="11" fill="{COLOURS.get(engine, "#555")}"/>'
        yield from _label(at + 16, 40, engine)
        at += 90
    yield f'<line x1="{at}" x2="{at}" y1="33" y2="46" stroke="#111" stroke-width="2"/>'
    yield from _label(at + 8, 40, "our bar")


def _axis(low: int, high: int, x: Any, bottom: float) -> Iterator[str]:
    for power in range(low, high + 1):
        at = x(10.0**power)
        yield f'<line x1="{at:.1f}" x2="{at:.1f}" y1="58" y2="{bottom:.1f}" stroke="#ddd"/>'
        yield from _label(at, bottom + 12, f"{10.0**power:g} s", anchor="middle")
