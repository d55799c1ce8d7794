"""What a person sees of a build of components: a live table on a terminal, else lines with the job's name."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self, TextIO

from buildstep.components.interface import Job, Result, State
from buildstep.components.run import Phase
from buildstep.report.live_table import LiveTable, Row
from buildstep.report.words import seconds_text
from buildstep.system import standard_streams
from buildstep.system.text import plural, printable, shown_line


class View(AbstractContextManager["View"], Protocol):
    """Shows a build: a watcher of the scheduler, which is given the lines of jobs as well."""

    def phase(self, job: Job, phase: Phase, why: str) -> None: ...

    def ended(self, job: Job, result: Result) -> None: ...

    def still(self, names: Collection[str]) -> None: ...

    def say(self, job: Job, text: str) -> None:
        """Show a line of a job; from any thread."""
        ...

    def tell(self, text: str) -> None:
        """Show something about the build as a whole."""
        ...


class Lines:
    """A line for each thing that happens, with the time and the job's name; for logs.

    output: whether the lines of tools are among them. stream: None for standard error.
    """

    def __init__(self, stream: TextIO | None = None, *, output: bool = True) -> None:
        self._stream = stream or sys.stderr
        self._output = output
        self._begin = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def phase(self, job: Job, phase: Phase, why: str) -> None:
        if phase is Phase.RUNNING:
            self._print(f"{job.name}: building: {why}")

    def ended(self, job: Job, result: Result) -> None:
        self._print(f"{job.name}: {describe(result)}")

    def still(self, names: Collection[str]) -> None:
        self._print(f"still building: {', '.join(names)}")

    def say(self, job: Job, text: str) -> None:
        if self._output and (shown := shown_line(text)) is not None:
            self._print(f"{job.name}| {shown}")

    def tell(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        with self._lock, standard_streams.telling():
            print(f"[{time.monotonic() - self._begin:9.3f}] {printable(text)}", file=self._stream, flush=True)


class Table:
    """The live table; what failed, and what a person should know, is printed above it and stays."""

    def __init__(self, table: LiveTable | None = None) -> None:
        self._table = table or LiveTable()
        self._rows: dict[str, Row] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._table.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.__exit__(kind, error, trace)

    def phase(self, job: Job, phase: Phase, why: str) -> None:
        began = time.monotonic() if phase is Phase.RUNNING else None
        self._set(Row(job.name, str(phase), why, began=began))

    def ended(self, job: Job, result: Result) -> None:
        text = {
            State.BLOCKED: f"by {result.message}",
            State.FAILED: result.message.partition("\n")[0],
            State.STOPPED: result.message,
        }.get(result.state, "")
        took = result.seconds if result.state in (State.BUILT, State.FAILED) else None
        self._set(Row(job.name, str(result.state), text, seconds=took))
        if result.state is State.FAILED:
            self._table.print(f"{job.name}: {describe(result)}", "bold red")

    def still(self, names: Collection[str]) -> None:
        pass  # the seconds in the table go on

    def say(self, job: Job, text: str) -> None:
        with self._lock:
            row = self._rows.get(job.name)
        if row is not None and row.began is not None and text.strip():
            self._set(row._replace(text=text.strip()[:500]))

    def tell(self, text: str) -> None:
        self._table.print(text, "yellow")

    def _set(self, row: Row) -> None:
        with self._lock:
            self._rows[row.name] = row
            rows = list(self._rows.values())
        self._table.show(rows)


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def phase(self, job: Job, phase: Phase, why: str) -> None:
        pass

    def ended(self, job: Job, result: Result) -> None:
        pass

    def still(self, names: Collection[str]) -> None:
        pass

    def say(self, job: Job, text: str) -> None:
        pass

    def tell(self, text: str) -> None:
        pass


def view_for(stream: TextIO, *, verbose: int, quiet: bool) -> View:
    """Return the view that suits a stream: the table on a terminal, lines elsewhere and where they are asked
    for."""
    if quiet:
        return Silent()
    if stream.isatty() and not verbose:
        try:
            return Table()
        except ImportError:
            return Lines(stream, output=False)
    return Lines(stream)


def describe(result: Result) -> str:
    """Say how a job ended, in a line."""
    match result.state:
        case State.BUILT:
            return f"built in {seconds_text(result.seconds)}: {result.output[:19]}"
        case State.REUSED:
            return f"reused: {result.output[:19]}"
        case State.FAILED:
            return f"FAILED after {seconds_text(result.seconds)}: {result.message.partition(chr(10))[0]}"
        case State.BLOCKED:
            return f"not built, as this failed: {result.message}"
        case _:
            return f"not built: {result.message.partition(chr(10))[0]}"


def summary(results: Mapping[str, Result], seconds: float) -> str:
    """Say what a build came to, in a line."""
    count = Counter(result.state for result in results.values())
    if results and count[State.REUSED] == len(results):
        return f"nothing to do: the results of all {plural(len(results), 'job')} are there"
    words = [f"{count[state]} {state}" for state in State if count[state]]
    return f"{plural(len(results), 'job')} in {seconds_text(seconds)}: {', '.join(words) or 'none'}"
