"""The event log: each event of a build as one line of JSON, written cheaply and read as a stream."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import IO, Any

from buildstep.events import Event, Note, Output, StepFinished
from buildstep.system.text import shown_line

SUFFIX = ".events.jsonl"

_BUFFER = 1 << 18
_PERIOD = 1.0
"""Seconds after which an event goes to disk even if the buffer has room: someone may be reading along."""


class EventLog:
    """Append each event to a binary file; a subscriber of the bus.

    Memory stays flat however long the log gets. A full disk must not fail a build that would else succeed:
    the first error ends the writing and is kept in `problem`, for the caller to report.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._waiting = 0
        self._written = 0.0
        # Lines of a command come from the threads that read its two streams.
        self._lock = threading.Lock()
        self.problem: OSError | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Output):
            # Nearly every event is a line of output: made by hand it costs a tenth of asdict and dumps.
            step, tool, text = quoted(event.step), quoted(event.tool), quoted(event.text)
            where = f'"time": {event.time!r}, "step": {step}, "tool": {tool}'
            part = ""
            if event.line:
                part = f', "line": {event.line}, "part": {event.part}, "size": {event.size}'
            line = f'{{"event": "output", {where}, "text": {text}{part}}}\n'
            now = False
        else:
            line = json.dumps(event.to_json()) + "\n"
            now = isinstance(event, StepFinished) or (isinstance(event, Note) and event.level == "error")
        with self._lock:
            if self.problem is not None:
                return
            self._lines.append(line)
            self._waiting += len(line)
            if self._waiting >= _BUFFER or not 0 <= event.time - self._written < _PERIOD or now:
                self._write(event.time)

    def _write(self, now: float) -> None:
        data = "".join(self._lines).encode("ascii")
        self._lines.clear()
        self._waiting, self._written = 0, now
        try:
            self._stream.write(data)
            self._stream.flush()
        except OSError as error:
            self.problem = error

    def flush(self) -> None:
        """Write what is still in memory."""
        with self._lock:
            if self._lines and self.problem is None:
                self._write(self._written)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log. A line that is no event becomes a note that says so.

    A build that was killed leaves half a line at the end: what came before it is still worth reading.
    """
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event
            elif line.strip():
                yield {
                    "event": "note",
                    "time": 0.0,
                    "step": "",
                    "level": "warning",
                    "text": f"line {number} of the event log is cut off or damaged",
                }


def output_text(event: Mapping[str, Any]) -> str | None:
    """Return what a page shows of the event of an output; None for a part of a line that it does not."""
    part, size = (value if isinstance(value := event.get(key), int) else 0 for key in ("part", "size"))
    return shown_line(str(event.get("text", "")), part, size)


def step_tail(events: Path | None, step: str, lines: int = 40) -> list[str]:
    """Return the last lines that tools printed in a step; nothing if there is no log."""
    tail: deque[str] = deque(maxlen=lines)
    if events is not None:
        for event in read_events(events):
            if event["event"] == "output" and event.get("step") == step:
                text = output_text(event)
                if text is not None:
                    tail.append(text)
    return list(tail)
