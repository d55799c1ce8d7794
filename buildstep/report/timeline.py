"""Timelines of pages: the marks of the axis, and bars that run side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def ticks(total: float) -> list[dict[str, Any]]:
    """Return about four round times along the axis: `left`, in per cent, and `text`."""
    scale = 10.0 ** (len(f"{total * 1000:.0f}") - 4)
    unit = next(
        (scale * step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10) if total / (scale * step) <= 5), scale * 10
    )
    if total > 120:
        unit = next((step for step in (30, 60, 120, 300, 600, 1800, 3600) if total / step <= 5), 7200)
    count = int(total / unit * 1.0001)
    marks = ((index * unit, index * unit / total * 100) for index in range(count + 1))
    return [{"left": round(left, 3), "text": _tick(at)} for at, left in marks if left < 96]


def _tick(seconds: float) -> str:
    if not seconds:
        return "0"
    if seconds >= 60:
        return f"{seconds / 60:g} min"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Something that took time. worker: who did it; started: in seconds, of the same clock for all."""

    name: str
    state: str
    worker: str
    started: float
    seconds: float
    critical: bool = False


def lanes(spans: Sequence[Span], total: float) -> list[dict[str, Any]]:
    """Return rows of bars, as few for each worker as hold its spans without two on one another.

    A row has `name`, `busy` (seconds) and `bars`, each with its span, and `left` and `width` in per cent of
    `total`, from the first start on.
    """
    begin = min((span.started for span in spans), default=0.0)
    scale = 100 / max(total, 1e-6)
    rows: list[dict[str, Any]] = []
    for span in sorted(spans, key=lambda span: (span.worker, span.started, span.name)):
        row = next((row for row in rows if row["worker"] == span.worker and row["end"] <= span.started), None)
        if row is None:
            number = sum(row["worker"] == span.worker for row in rows) + 1
            row = {"worker": span.worker, "number": number, "busy": 0.0, "bars": []}
            rows.append(row)
        left = min(100.0, (span.started - begin) * scale)
        width = min(100.0 - left, span.seconds * scale)
        row["bars"].append({"span": span, "left": round(left, 3), "width": round(width, 3)})
        row["busy"] += span.seconds
        row["end"] = span.started + span.seconds
    many = {row["worker"] for row in rows if row["number"] > 1}
    return [
        {**row, "name": f"{row['worker']} {row['number']}" if row["worker"] in many else row["worker"]}
        for row in rows
    ]
