"""Pack an event log for a page: compressed chunks and an index, in one pass and with little memory."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from buildstep.report.event_log import output_text, read_events
from buildstep.report.words import STATES, seconds_text
from buildstep.system.text import size_text

ROWS = 4096
"""Rows in a chunk, which is what the page unpacks to show any one of them."""

CHUNK_BYTES = 1 << 20
"""Bytes after which a chunk of long lines is closed earlier."""

_PROBLEMS = 500
_LEVELS = {"debug": "d", "info": "i", "warning": "w", "error": "e"}
_MARKS = {
    "output": "o", "step.started": "s", "step.finished": "f", "build.started": "b", "build.finished": "b",
    "counted": "d",
}  # fmt: skip
"""Letters that `log.js` knows: of levels of notes, and of other events."""


@dataclass(slots=True)
class Index:
    """What the page knows of the log before it unpacks a chunk.

    chunks: the number of rows of each. steps: names; a row holds the place of its step in this list.
    first: the first row of each step. problems: rows with warnings and errors, as many as fit.
    """

    begin: float = 0.0
    rows: int = 0
    bytes: int = 0
    chunks: list[int] = field(default_factory=list)
    steps: list[str] = field(default_factory=lambda: [""])
    first: list[int] = field(default_factory=lambda: [0])
    problems: list[int] = field(default_factory=list)
    levels: dict[str, int] = field(default_factory=dict)


def pack(events: Path, out: IO[bytes]) -> Index:
    """Write every event of a log into `out` as data blocks, and return their index."""
    index = Index()
    numbers = {"": 0}
    tools: dict[str, str] = {}
    chunk: list[str] = []
    size = 0
    for event in read_events(events):
        text = _text(event)
        if text is None:
            continue
        mark = _mark(event)
        time = event.get("time")
        time = float(time) if isinstance(time, int | float) else 0.0
        if not index.begin:
            index.begin = time
        step = str(event.get("step") or "")
        if step not in numbers:
            numbers[step] = len(index.steps)
            index.steps.append(step)
            index.first.append(index.rows)
        named = str(event.get("tool") or "")
        tool = tools.get(named)
        if tool is None:
            tool = tools[named] = named.translate(_FLAT)
        millis = max(0, round((time - index.begin) * 1000)) if time else 0
        for line in text.split("\n"):
            row = f"{millis}\t{mark}\t{numbers[step]}\t{tool}\t{line}"
            chunk.append(row)
            size += len(row) + 1
            if mark in "we" and len(index.problems) < _PROBLEMS:
                index.problems.append(index.rows)
            index.levels[mark] = index.levels.get(mark, 0) + 1
            index.rows += 1
            if len(chunk) >= ROWS or size >= CHUNK_BYTES:
                _close(chunk, index, out)
                size = 0
    if chunk:
        _close(chunk, index, out)
    return index


def _close(chunk: list[str], index: Index, out: IO[bytes]) -> None:
    # Half of a surrogate pair cannot be encoded; a tool's odd byte must not lose the line.
    data = "\n".join(chunk).encode(errors="replace")
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    packed = base64.b64encode(packer.compress(data) + packer.flush())
    # Base64 has no < and no &: this cannot end the element whatever a tool has printed.
    out.write(b'<script type="application/gzip" class="log-chunk">' + packed + b"</script>\n")
    index.chunks.append(len(chunk))
    index.bytes += len(data) + 1
    chunk.clear()


_FLAT = str.maketrans("\t\n", "  ")


def _mark(event: dict[str, Any]) -> str:
    """Return the letter that tells the page what kind of event this is."""
    kind = event["event"]
    if kind == "note":
        return _LEVELS.get(str(event.get("level")), "i")
    failed = event.get("state") == "failed" or (kind == "build.finished" and not event.get("ok"))
    return "e" if failed else _MARKS.get(kind, "i")


def _text(event: dict[str, Any]) -> str | None:
    """Return an event as a line; None for one that the page leaves out. Fields may be missing if another
    version wrote the log."""
    get = event.get
    match event["event"]:
        case "output":
            return output_text(event)
        case "note":
            return str(get("text", ""))
        case "build.started":
            return f"building {get('name')} {get('version')} on {get('image')}"
        case "build.finished":
            word = "built" if get("ok") else f"failed with exit status {get('exit_code')}"
            return f"{word} after {_seconds(get('seconds'))}" + _tail(get("message"))
        case "step.started":
            return str(get("title") or get("step") or "")
        case "step.finished":
            state = STATES.get(str(get("state")), str(get("state")))
            return f"{get('step')} {state} in {_seconds(get('seconds'))}" + _tail(get("reason"))
        case "cleaned":
            return f"{get('cleaner')}: {get('paths')} paths, {_size(get('bytes'))} removed"
        case "checked":
            return f"check {get('group')} {get('check')}: {get('result')}" + _tail(get("message"))
        case "artifact":
            return f"{get('path')}  {_size(get('size'))}  sha256:{get('sha256')}"
        case "counted":
            return f"{get('name')} = {get('amount')}"
        case _:
            rest = {key: value for key, value in event.items() if key not in ("event", "time", "step")}
            return f"{event['event']} {json.dumps(rest)}"


def _tail(text: object) -> str:
    return f": {text}" if text else ""


def _seconds(value: object) -> str:
    return seconds_text(value) if isinstance(value, int | float) else "?"


def _size(value: object) -> str:
    return size_text(value) if isinstance(value, int | float) else "?"
