"""What a person sees of jobs that run side by side: a live table on a terminal, else lines."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple, Protocol, Self, TextIO

from buildstep.report.live_table import LiveTable, Row
from buildstep.system import standard_streams
from buildstep.system.text import printable, shown_line


class Ended(NamedTuple):
    """How a job ended. state: a word of `live_table.STYLES`; line: all of it in a line; text: what of it the
    table has room for; seconds: what it took, None for one that did not run."""

    state: str
    line: str
    text: str = ""
    seconds: float | None = None


class JobView(AbstractContextManager["JobView"], Protocol):
    """Shows jobs, by their names; from any thread."""

    def waiting(self, name: str) -> None:
        """A job will run when others are done."""
        ...

    def running(self, name: str, text: str, doing: str = "") -> None:
        """A job runs. text: why; doing: what a line says before it."""
        ...

    def ended(self, name: str, end: Ended) -> None: ...

    def still(self, text: str) -> None:
        """Say that jobs still run, where none has ended for a while."""
        ...

    def say(self, name: str, text: str) -> None:
        """Show a line that a job has printed."""
        ...

    def placed(self, name: str, where: str) -> None:
        """Show on which other machine a job runs."""
        ...

    def tell(self, text: str) -> None:
        """Show something about all of it."""
        ...


class Lines:
    """A line for each thing that happens, with the time and the job's name; for logs.

    output: whether the lines of jobs are among them. stream: None for standard error.
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

    def waiting(self, name: str) -> None:
        pass

    def running(self, name: str, text: str, doing: str = "") -> None:
        self.tell(f"{name}: {doing}{text}")

    def ended(self, name: str, end: Ended) -> None:
        self.tell(f"{name}: {end.line}")

    def still(self, text: str) -> None:
        self.tell(text)

    def say(self, name: str, text: str) -> None:
        if self._output and (shown := shown_line(text)) is not None:
            self.tell(f"{name}| {shown}")

    def placed(self, name: str, where: str) -> None:
        self.tell(f"{name}: on {where}")

    def tell(self, text: str) -> None:
        with self._lock, standard_streams.telling():
            print(f"[{time.monotonic() - self._begin:9.3f}] {printable(text)}", file=self._stream, flush=True)


class Table:
    """The live table; what failed, and what a person should know, is printed above it and stays."""

    def __init__(self, table: LiveTable | None = None) -> None:
        self._table = table or LiveTable()
        self._rows: dict[str, Row] = {}
        self._places: dict[str, str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._table.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.__exit__(kind, error, trace)

    def waiting(self, name: str) -> None:
        self._set(Row(name, "waiting"))

    def running(self, name: str, text: str, doing: str = "") -> None:
        self._set(Row(name, "running", text, began=time.monotonic()))

    def ended(self, name: str, end: Ended) -> None:
        self._set(Row(name, end.state, end.text, seconds=end.seconds))
        if end.state == "failed":
            self._table.print(f"{name}: {end.line}", "bold red")

    def still(self, text: str) -> None:
        pass  # the seconds in the table go on

    def say(self, name: str, text: str) -> None:
        with self._lock:
            row = self._rows.get(name)
        if row is not None and row.began is not None and text.strip():
            shown, place = text.strip()[:500], self._places.get(name)
            self._set(row._replace(text=f"{place}: {shown}" if place else shown))

    def placed(self, name: str, where: str) -> None:
        self._places[name] = where
        self.say(name, "has the job")

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

    def waiting(self, name: str) -> None:
        pass

    def running(self, name: str, text: str, doing: str = "") -> None:
        pass

    def ended(self, name: str, end: Ended) -> None:
        pass

    def still(self, text: str) -> None:
        pass

    def say(self, name: str, text: str) -> None:
        pass

    def placed(self, name: str, where: str) -> None:
        pass

    def tell(self, text: str) -> None:
        pass


def job_view(stream: TextIO, *, verbose: bool, quiet: bool) -> JobView:
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
