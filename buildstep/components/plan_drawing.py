"""A plan, and what became of it, as a drawing of its components."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from buildstep.components.graph import Graph
from buildstep.components.interface import History, Result, State
from buildstep.components.plan import Plan, Planned, Selection, Verdict
from buildstep.errors import UsageError
from buildstep.report.graph_page import STATES, Box, Drawing, Run, render_page, render_svg
from buildstep.report.timeline import Span
from buildstep.report.words import seconds_text
from buildstep.system.files import named_output
from buildstep.system.text import plural

_RANK = ("failed", "run", "blocked", "stopped", "check", "built", "reuse")
"""The states of jobs, the one first that counts for their component."""


def check_name(path: Path | None) -> None:
    """Raise UsageError for a file that no graph is written to: its name says how."""
    if path is not None and path.suffix not in (".svg", ".html"):
        raise UsageError(f"{path}: a graph is written as .svg or .html")


def write_drawing(
    plan: Plan, path: Path, results: Mapping[str, Result] | None = None, run: Run | None = None
) -> None:
    """Write a plan as `.svg`, or as a page, `.html`. results: of the jobs that were carried out, by name;
    run: how they went, for the page's timeline.

    Raises UsageError for a name that ends in neither, OSError.
    """
    check_name(path)
    made, rows = drawing(plan, results or {}), job_rows(plan, results or {})
    with named_output(path) as out:
        if path.suffix == ".svg":
            render_svg(made, out)
        else:
            notes = [*plan.selection.notes, *plan.graph.repository.notes, *plan.graph.notes]
            render_page(made, rows, notes, out, run)


def write_run(
    graph: Graph,
    jobs: Collection[str],
    results: Mapping[str, Result],
    history: History,
    path: Path,
    seconds: float,
) -> None:
    """Write what became of a run's jobs as a drawing; in a page there is a timeline as well.

    jobs: in their order. history: tells what reused jobs took when they were built. seconds: the whole run.
    Raises as `write_drawing`.
    """
    rows = {name: Planned(job=name, verdict=Verdict.RUN, reason="") for name in jobs}
    plan = Plan(graph=graph, selection=Selection(chosen=frozenset(jobs)), jobs=rows)
    critical = critical_path(graph, results)
    spans = [
        Span(
            name=row.job,
            state=str(row.state),
            worker=row.worker or "local",
            started=row.started,
            seconds=row.seconds,
            critical=row.job in critical,
        )
        for row in results.values()
        if row.started
    ]
    reused = [history.last(row.job) for row in results.values() if row.state is State.REUSED]
    saved = sum(built.seconds for built in reused if built)
    write_drawing(plan, path, results, Run(spans=spans, seconds=seconds, saved=saved))


def critical_path(graph: Graph, results: Mapping[str, Result]) -> list[str]:
    """Return the jobs that decided when the run ended, the first one first: each began when the one before
    it, that it needs, was done."""
    ran = {name: row.started + row.seconds for name, row in results.items() if row.started}
    path: list[str] = []
    next_ = max(ran, key=lambda name: (ran[name], name), default=None)
    while next_ is not None:
        path.append(next_)
        needs = [need for need in graph.jobs[next_].needs if need in ran]
        next_ = max(needs, key=lambda name: (ran[name], name), default=None)
    return path[::-1]


def drawing(plan: Plan, results: Mapping[str, Result]) -> Drawing:
    """Return the drawing of a plan: a box for each component of it, with its state and time."""
    rows = plan.by_component()
    names = plan.components()
    more = sorted({plan.graph.jobs[job].component for job in plan.selection.needed} - set(names))
    shown = sorted([*names, *more])
    shown_set = set(shown)
    boxes = [_box(name, rows.get(name, []), results, dim=name in more) for name in shown]
    counts = [
        f"{count} {STATES[state]}"
        for state in _RANK
        if (count := sum(_state(row, results) == state for row in plan.jobs.values()))
    ]
    return Drawing(
        title=plan.graph.repository.root.resolve().name or "components",
        subtitle=f"{plural(len(plan.jobs), 'job')} of {plural(len(shown), 'component')}: {', '.join(counts)}",
        boxes=boxes,
        levels=plan.graph.levels(shown),
        edges={
            edge: reason
            for edge, reason in plan.graph.component_reasons.items()
            if edge[0] in shown_set and edge[1] in shown_set
        },
    )


def job_rows(plan: Plan, results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Return the jobs of a plan as rows of a table, in their order."""
    return [
        {
            "name": row.job,
            "component": plan.graph.jobs[row.job].component,
            "state": _state(row, results),
            "reason": _reason(row, results),
            "seconds": _seconds(row, results),
            "needs": plan.graph.jobs[row.job].needs,
        }
        for row in plan.jobs.values()
    ]


def _box(name: str, rows: Sequence[Planned], results: Mapping[str, Result], *, dim: bool) -> Box:
    states = [_state(row, results) for row in rows]
    state = min(states, key=_RANK.index, default="reuse")
    note = " · ".join(_note(rows, states, state, results)) if rows else "only files"
    title = "\n".join(f"{row.job}: {STATES[_state(row, results)]}, {_reason(row, results)}" for row in rows)
    return Box(name=name, state=state, note=note, title=title, dim=dim)


def _note(
    rows: Sequence[Planned], states: Sequence[str], state: str, results: Mapping[str, Result]
) -> Iterator[str]:
    """Yield the parts of a box's second line: the state, of how many jobs, the time, and one job's reason."""
    count = states.count(state)
    yield STATES[state] if count == len(rows) else f"{count} of {len(rows)} {STATES[state]}"
    # What is reused takes no time; what it took once is in the table.
    timed = [row for row, its in zip(rows, states, strict=True) if its not in ("reuse", "blocked")]
    if seconds := sum(_seconds(row, results) for row in timed):
        yield seconds_text(seconds)
    reasons = {_reason(row, results) for row, its in zip(rows, states, strict=True) if its == state}
    if len(reasons) == 1 and state in ("run", "built", "failed", "blocked") and (reason := reasons.pop()):
        yield reason


def _state(row: Planned, results: Mapping[str, Result]) -> str:
    if row.job not in results:
        return str(row.verdict)
    state = results[row.job].state
    return str(Verdict.REUSE) if state is State.REUSED else str(state)


def _seconds(row: Planned, results: Mapping[str, Result]) -> float:
    return results[row.job].seconds if row.job in results else row.seconds


def _reason(row: Planned, results: Mapping[str, Result]) -> str:
    """Return why a job has its state; of one that failed it is what went wrong."""
    if (result := results.get(row.job)) is None:
        return row.reason
    if result.state is State.REUSED:
        return ", ".join(part for part in (result.why, result.message) if part)
    return result.message or result.why
