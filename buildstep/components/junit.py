"""JUnit of a build of components, with a case for each component."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from buildstep.components.flow import Outcome
from buildstep.components.interface import Result, State
from buildstep.report.junit import Case, Suite, write
from buildstep.system.files import named_output

LAST_LINES: Final = 40
"""Lines of a failed job's log that its test case shows."""


def write_junit(path: Path, outcome: Outcome) -> None:
    """Write a JUnit file with a case for each component. Raises OSError."""
    by_component: dict[str, list[Result]] = {}
    for result in outcome.results.values():
        by_component.setdefault(outcome.jobs[result.job].component, []).append(result)
    suite = Suite(
        title="components",
        prefix="components",
        seconds=outcome.seconds,
        started=datetime.fromtimestamp(outcome.started, UTC),
        facts={},
        cases=[_case(name, by_component[name]) for name in sorted(by_component)],
    )
    with named_output(path) as stream:
        write([suite], stream)


def _case(component: str, results: Sequence[Result]) -> Case:
    seconds = sum(result.seconds for result in results)
    failed = [result for result in results if result.state is State.FAILED]
    if failed:
        return Case(
            group="component",
            name=component,
            seconds=seconds,
            result="failure",
            message="; ".join(f"{result.job}: {result.message.partition(chr(10))[0]}" for result in failed),
            text="\n\n".join(_words(result) for result in failed),
        )
    left = [result for result in results if result.state in (State.BLOCKED, State.STOPPED)]
    if left:
        why = sorted({f"{result.state}: {result.message}" for result in left})
        return Case(
            group="component", name=component, seconds=seconds, result="skipped", message="; ".join(why)
        )
    lines = [f"{result.job}: {result.state} {result.output}" for result in results]
    return Case(group="component", name=component, seconds=seconds, output="\n".join(lines))


def _words(result: Result) -> str:
    """Return what a failed job said: its error, and the end of its output."""
    return "\n".join([result.message, "", "last output:", *_tail(result.log)])


def _tail(log: Path | None) -> Iterable[str]:
    if log is None:
        return []
    try:
        with log.open(encoding="utf-8", errors="replace") as stream:
            return stream.read().splitlines()[-LAST_LINES:]
    except OSError:
        return []
