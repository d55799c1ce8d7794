"""Results: medians and spread over runs, the JSON that is kept, and verdicts against the bars."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.measure import Run

FORMAT = 1


def summary(runs: list[Run]) -> dict[str, Any]:
    """One cell of the table: the median run's numbers, the spread, and every run as it was."""
    seconds = [run.seconds for run in runs]
    middle = sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]
    return {
        "median": round(statistics.median(seconds), 3),
        "least": round(min(seconds), 3),
        "most": round(max(seconds), 3),
        "count": len(runs),
        "cpu": round(statistics.median(run.user + run.system for run in runs), 3),
        "rss_largest": max(run.rss_largest for run in runs),
        "anon_total": max(run.anon_total for run in runs),
        "pss_total": max(run.pss_total for run in runs),
        "bytes": middle.told.get("bytes", 0),
        "counts": middle.told.get("counts", {}),
        "steps": middle.told.get("steps", {}),
        "runs": [{k: v for k, v in asdict(run).items() if k != "told"} for run in runs],
    }


def left_out(reason: str) -> dict[str, Any]:
    return {"left_out": reason}


def median(cell: Mapping[str, Any] | None) -> float | None:
    """The median of a cell, None where nothing was measured."""
    return None if cell is None else cell.get("median")


def ratio(case: Mapping[str, Any], engine: str) -> float | None:
    """How many times as long as ours an engine took."""
    ours, theirs = median(case["engines"].get("ours")), median(case["engines"].get(engine))
    return theirs / ours if ours and theirs else None


def verdict(case: Mapping[str, Any]) -> str:
    """Whether our median meets the bar: empty where there is no bar or nothing was measured."""
    bar, ours = case.get("bar"), median(case["engines"].get("ours"))
    if bar is None or ours is None:
        return ""
    return "met" if ours <= bar else f"missed, {ours / bar:.1f}x"
