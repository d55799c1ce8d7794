"""Typed build events and the bus that carries them; every view of a build is made from these."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal, NamedTuple

State = Literal["run", "reuse", "skip", "failed"]
Level = Literal["debug", "info", "warning", "error"]
Result = Literal["passed", "failed", "warned", "skipped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What every event carries. time: seconds since the epoch; step: the step it happened in."""

    kind: ClassVar[str] = "event"
    time: float = field(default_factory=time.time)
    step: str = ""

    def to_json(self) -> dict[str, object]:
        """Field names are stable; sentences inside them are not."""
        return {"event": self.kind, **asdict(self)}


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildStarted(Event):
    kind: ClassVar[str] = "build.started"
    build_id: str
    name: str
    version: str
    image: str
    total_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildFinished(Event):
    kind: ClassVar[str] = "build.finished"
    ok: bool
    exit_code: int
    seconds: float
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepStarted(Event):
    kind: ClassVar[str] = "step.started"
    index: int
    total: int
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFinished(Event):
    kind: ClassVar[str] = "step.finished"
    state: State
    seconds: float
    reason: str = ""


class Part(NamedTuple):
    """Which part of a line a text is, where the line is too long for one event. line: a number that the parts
    share; part: counts from 1; size: bytes of the whole line, in its last part, else 0."""

    line: int = 0
    part: int = 0
    size: int = 0


WHOLE = Part()
"""Of a text that is a whole line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output(Event):
    """One line that a tool printed, without its line end; or a `Part` of one."""

    kind: ClassVar[str] = "output"
    tool: str
    text: str
    line: int = 0
    part: int = 0
    size: int = 0

    def to_json(self) -> dict[str, object]:
        """Return the fields; a whole line has no number."""
        value = Event.to_json(self)
        if not self.line:
            del value["line"], value["part"], value["size"]
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Note(Event):
    kind: ClassVar[str] = "note"
    level: Level
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned(Event):
    """A cleaner's report, or as `replace` what gave way to the proto directory. paths: how many were removed,
    bytes: their size, names: the first of them."""

    kind: ClassVar[str] = "cleaned"
    cleaner: str
    paths: int
    bytes: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked(Event):
    """How a check of the finished image ended. group: `rule`, or the kind of the test; message: why it
    failed, in a line; lines: all that it found, or what it has to say."""

    kind: ClassVar[str] = "checked"
    check: str
    group: str
    result: Result
    seconds: float = 0.0
    message: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactWritten(Event):
    kind: ClassVar[str] = "artifact"
    path: str
    format: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWritten(Event):
    """A layer of an image that was written, base first. number: from 1; text: what it is, and brings."""

    kind: ClassVar[str] = "layer"
    number: int
    total: int
    digest: str
    size: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted(Event):
    """A cost that tests and benchmarks watch, such as files read or bytes compressed."""

    kind: ClassVar[str] = "counted"
    name: str
    amount: int


Subscriber = Callable[[Event], None]


class Bus:
    """Hands each event to every subscriber, in order of subscription."""

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers = list(subscribers)
        self._announced: list[Note] = []
        self.counts: dict[str, int] = {}
        self.current = ""

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)
        for note in tuple(self._announced):
            self._hand(note, (subscriber,))

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.remove(subscriber)

    def emit(self, event: Event) -> None:
        """Hand on an event. A view that cannot be written to any more is dropped, and the others told: no
        build ends because a log's disk is full or its reader has left."""
        self._hand(event, tuple(self._subscribers))

    def _hand(self, event: Event, subscribers: tuple[Subscriber, ...]) -> None:
        for subscriber in subscribers:
            if subscriber not in self._subscribers:
                continue  # dropped meanwhile
            try:
                subscriber(event)
            except OSError as error:
                self._subscribers.remove(subscriber)
                which = f"{error.filename}: " if error.filename else ""
                self.announce(f"a log of this build ends here: {which}{error.strerror}", level="warning")

    def announce(self, text: str, *, level: Level = "info") -> None:
        """Tell every subscriber something, those to come as well: the log of a build begins after others."""
        note = Note(step=self.current, level=level, text=text)
        self._announced.append(note)
        self.emit(note)

    def note(self, text: str, *, level: Level = "info") -> None:
        """Tell the reader something about the current step."""
        self.emit(Note(step=self.current, level=level, text=text))

    def output(self, tool: str, text: str, part: Part = WHOLE) -> None:
        self.emit(Output(step=self.current, tool=tool, text=text, **part._asdict()))

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counted cost; totals are emitted once, by `emit_counts`."""
        self.counts[name] = self.counts.get(name, 0) + amount

    def emit_counts(self) -> None:
        for name, amount in sorted(self.counts.items()):
            self.emit(Counted(name=name, amount=amount))
