"""Live views of a build for a person, a plain log or a program: each is a subscriber of the bus."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any, TextIO

from buildstep.events import (
    ArtifactWritten,
    BuildFinished,
    BuildStarted,
    Checked,
    Cleaned,
    Event,
    LayerWritten,
    Note,
    Output,
    Progress,
    StepFinished,
    StepStarted,
    Subscriber,
)
from buildstep.report.progress import EVERY, Pace, live, start
from buildstep.system import standard_streams
from buildstep.system.text import SHOWN, printable, shown_line, size_text

HEARTBEAT = 30.0
"""Seconds without a line after which a plain log says that the build is still running."""

_LAST = 200
"""Characters of a tool's last line that the heartbeat shows."""

_MARKS = {"run": "done", "reuse": "reused", "skip": "skipped", "failed": "FAILED"}


def describe(event: Event, *, verbose: int) -> str | None:
    """Return the line that describes an event, or None if this verbosity does not show it."""
    match event:
        case BuildStarted():
            return f"building {event.name} {event.version} on {event.image} (build {event.build_id})"
        case StepStarted():
            return f"{event.index}/{event.total} {event.title}"
        case StepFinished():
            reason = f": {event.reason}" if event.reason else ""
            return f"    {event.step} {_MARKS[event.state]} in {event.seconds:.2f} s{reason}"
        case Output():
            text = shown_line(event.text, event.part, event.size) if verbose > 0 else None
            return None if text is None else f"    {event.tool}| {text}"
        case Note():
            if event.level == "debug" and verbose < 2:
                return None
            return f"    {event.level}: {event.text}" if event.level != "info" else f"    {event.text}"
        case Cleaned():
            if not event.paths and verbose < 1:
                return None
            return f"    {event.cleaner}: {event.paths} paths, {size_text(event.bytes)} removed"
        case Checked():
            return _checked(event, verbose=verbose)
        case ArtifactWritten():
            return f"    {event.path}  {size_text(event.size)}  sha256:{event.sha256[:16]}"
        case LayerWritten():
            what = f"{event.number}/{event.total} {event.text}"
            return (
                f"    layer {what}, {size_text(event.size)}  sha256:{event.digest[:16]}" if verbose else None
            )
        case BuildFinished():
            word = "built" if event.ok else f"FAILED (exit status {event.exit_code})"
            return f"{word} in {event.seconds:.2f} s"
        case _:
            return None


def _checked(event: Checked, *, verbose: int) -> str | None:
    """Return the lines of a check: what it found, if it did not pass."""
    name = event.check if event.group == "rule" else f"{event.group} {event.check}"
    if event.result == "passed":
        return (
            f"    check {name}: passed in {event.seconds:.2f} s" if verbose or event.group != "rule" else None
        )
    word = {"failed": "FAILED", "warned": "warning", "skipped": "skipped"}[event.result]
    return f"    check {name}: {word}: {event.message}"


class PlainView:
    """Write a timed line for each event, lines of long jobs at a fixed pace, and a heartbeat while a step is
    silent; for logs and pipes."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        verbose: int = 0,
        heartbeat: float = HEARTBEAT,
        pace: float = EVERY,
    ) -> None:
        self._stream = stream or sys.stderr
        self._verbose = verbose
        self._begin = self._spoke = time.monotonic()
        self._heartbeat = heartbeat
        self._pace = Pace(lambda text: self._say(f"    {text}"), every=pace)
        self._step, self._last = "", ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watched = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepStarted):
            self._step, self._last = event.step, ""
            if not self._watched:
                self._watched = True
                start(self._beat)
        elif isinstance(event, Output) and event.part <= 1:
            self._last = event.text[:_LAST]
        elif isinstance(event, Progress):
            (self._pace.begin if event.state == "begin" else self._pace.end)(event.gauge)
        elif isinstance(event, BuildFinished):
            self._stop.set()
            self._pace.close()
        text = describe(event, verbose=self._verbose)
        if text is not None:
            self._say(text)

    def _say(self, text: str) -> None:
        with self._lock:
            self._spoke = time.monotonic()
            print(f"[{self._spoke - self._begin:9.3f}] {printable(text)}", file=self._stream, flush=True)

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat / 4):
            if time.monotonic() - self._spoke >= self._heartbeat:
                last = f"; last line: {self._last}" if self._last else ""
                try:
                    self._say(f"    still in step {self._step}{last}")
                except OSError:
                    return  # the next event meets it too, and tells


class TerminalView:
    """Write coloured lines, and live ones with the last output of the current step and how far its jobs are,
    by rich."""

    def __init__(self, *, verbose: int = 0) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._verbose = verbose
        self._live: Any = None
        self._title = ""
        self._failed = False
        self._lock = threading.RLock()

    def __call__(self, event: Event) -> None:
        from rich.text import Text

        if isinstance(event, StepStarted):
            self._end()
            self._begin(event.title)
            return
        if isinstance(event, Progress):
            self._job(event)
            return
        if isinstance(event, Output) and self._title and not self._verbose:
            if event.part > 1:
                return
            room = self._console.width - len(self._title) - 8
            line = printable(event.text[:SHOWN])[:room] if room > 0 else ""
            with self._lock:
                if self._live is not None:
                    self._live.headline.update(text=Text.assemble(self._title, "  ", (line, "dim")))
            return
        # After an error a shell may follow, which the live line would write into.
        if isinstance(event, BuildFinished | StepFinished) or (
            isinstance(event, Note) and event.level == "error"
        ):
            self._end()
        text = describe(event, verbose=self._verbose)
        if text is not None:
            self._console.print(Text(printable(text), style=self._style(event)))

    def _begin(self, title: str) -> None:
        from rich.spinner import Spinner
        from rich.text import Text

        from buildstep.report.bars import Bars

        with self._lock:
            self._live, self._title = Bars(self._console), title
            if title:
                self._live.headline = Spinner("dots", Text(title), style="status.spinner")
            self._live.start()

    def _job(self, event: Progress) -> None:
        with self._lock:
            if event.state == "begin":
                if self._live is None:  # a command that has no steps
                    self._begin("")
                self._live.begin(event.gauge)
            elif self._live is not None:
                self._live.end(event.gauge)
                if not self._title and self._live.empty:
                    self._end()

    def _end(self) -> None:
        with self._lock:
            if self._live is not None:
                self._live.stop()
            self._live, self._title = None, ""

    def _style(self, event: Event) -> str:
        if isinstance(event, StepFinished):
            if event.state == "failed":
                self._failed = True
                return "bold red"
            # While a failed build cleans up, later steps are dimmed so that the failed one stands out.
            if self._failed or event.state == "skip":
                return "dim"
            return "cyan" if event.state == "reuse" else "green"
        if isinstance(event, Note):
            return {"warning": "yellow", "error": "bold red"}.get(event.level, "")
        if isinstance(event, BuildFinished):
            return "bold green" if event.ok else "bold red"
        return "bold" if isinstance(event, BuildStarted | ArtifactWritten) else "dim"


class JsonView:
    """Write each event as one line of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        print(json.dumps(event.to_json()), file=self._stream, flush=True)


def view_for(stream: TextIO, *, verbose: int, quiet: bool) -> Subscriber:
    """Return the view that suits a stream: colours on a terminal, timed lines elsewhere."""
    if quiet:
        return lambda _event: None
    if stream is not sys.stderr:
        return PlainView(stream, verbose=verbose)
    if live(stream):
        try:
            return on_stderr(TerminalView(verbose=verbose))
        except ImportError:
            pass
    return on_stderr(PlainView(stream, verbose=verbose))


def on_stderr(view: Subscriber) -> Subscriber:
    """Name the stream in the error of a view that cannot write to it, which nobody will try again."""

    def show(event: Event) -> None:
        try:
            view(event)
        except OSError as error:
            standard_streams.lose(standard_streams.STDERR)
            name = standard_streams.NAMES[standard_streams.STDERR]
            raise OSError(error.errno, error.strerror, name) from error

    return show
