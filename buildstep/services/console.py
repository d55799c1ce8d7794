"""What a person sees of plans and runs of services."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from types import TracebackType
from typing import Self

from buildstep.report.job_view import Ended, JobView
from buildstep.report.words import seconds_text
from buildstep.services.apply import Outcome
from buildstep.services.decisions import Planned, Verdict
from buildstep.services.inputs import ONCE
from buildstep.services.plan import Phase, Plan
from buildstep.services.run_context import Fate, Result
from buildstep.services.service_run import name_of
from buildstep.system.text import plural


class View:
    """Shows a run: see `work.Watcher`."""

    def __init__(self, view: JobView) -> None:
        self._view = view

    def __enter__(self) -> Self:
        self._view.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.__exit__(kind, error, trace)

    def running(self, name: str, text: str) -> None:
        self._view.running(name, text)

    def ended(self, name: str, result: Result) -> None:
        took = result.seconds if result.fate in (Fate.DONE, Fate.FAILED) else None
        self._view.ended(name, Ended(str(result.fate), describe(result), result.message, took))

    def still(self, names: Collection[str]) -> None:
        self._view.still(f"still at work: {', '.join(names)}")

    def say(self, name: str, text: str) -> None:
        self._view.say(name, text)

    def tell(self, text: str) -> None:
        self._view.tell(text)


def describe(result: Result) -> str:
    """Say how it ended with a service, in a line."""
    first = result.message.partition("\n")[0]
    match result.fate:
        case Fate.DONE:
            return f"{result.verb} done in {seconds_text(result.seconds)}: it is {result.state}"
        case Fate.UNCHANGED:
            return f"nothing to do: it is {result.state}"
        case Fate.LEFT:
            return f"left as it is: {first}"
        case Fate.FAILED:
            return f"FAILED after {seconds_text(result.seconds)}: {first}"
        case Fate.BLOCKED:
            return f"not done, as this failed: {first}"
        case Fate.STOPPED:
            return f"not done: {first}"


def summary(outcome: Outcome) -> str:
    """Say what a run came to, in a line."""
    count = Counter(row.fate for row in outcome.results)
    services = len({row.key for row in outcome.results})
    actions = sum(len(row.ran) for row in outcome.results)
    words = ", ".join(f"{count[fate]} {fate}" for fate in Fate if count[fate])
    took = seconds_text(outcome.seconds)
    return f"{plural(services, 'service')}, {plural(actions, 'action')} in {took}: {words or 'nothing to do'}"


def plan_lines(plan: Plan, *, everything: bool = False) -> Iterator[str]:
    """Yield a plan for a person. everything: with what is skipped because nothing asks for it."""
    for phase in plan.phases:
        if len(plan.phases) > 1:
            yield f"{phase.verb}:"
        for key in phase.first:
            yield from _service(phase, key, everything=everything)
    yield from (f"note: {note}" for note in plan.notes)
    services = len({key for phase in plan.phases for key in phase.first})
    yield f"{plural(services, 'service')}, {plural(plan.runs, 'action')} to run"


def _service(phase: Phase, key: str, *, everything: bool) -> Iterator[str]:
    if key in phase.left:
        yield f"{key}: nothing: {phase.left[key]}"
        return
    rows = phase.rows[key]
    shown = [row for row in rows if everything or row.verdict is not Verdict.SKIP or row.unit.action in ONCE]
    after = f", after {', '.join(sorted(phase.first[key]))}" if phase.first[key] else ""
    if not everything and all(row.verdict is Verdict.SKIP for row in rows):
        yield f"{key}: nothing to do: {rows[-1].reason if rows else 'it has no such action'}"
        return
    yield f"{key}{after}"
    yield from _table(shown)


def _table(rows: Sequence[Planned]) -> Iterator[str]:
    names = [name_of(row.unit) for row in rows]
    widths = (max(map(len, names), default=0), max((len(row.place) for row in rows), default=0))
    for row, name in zip(rows, names, strict=True):
        yield f"  {row.verdict:4}  {name:{widths[0]}}  {row.place:{widths[1]}}  {row.reason}"
