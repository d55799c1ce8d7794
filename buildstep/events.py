"""Typed build events and the bus that carries them; every view of a build is made from these."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import ClassVar, Literal, NamedTuple

State = Literal["run", "reuse", "skip", "failed"]
Level = Literal["debug", "info", "warning", "error"]
Result = Literal["passed", "failed", "warned", "skipped"]
Unit = Literal["bytes", "percent"]


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


class Reading(NamedTuple):
    """How far a job is: of its total in its unit, how many files, and what it is at, in words."""

    done: int
    files: int = 0
    text: str = ""


class Gauge:
    """How far a job is. Whoever does it adds to it, or says how it can be read; whoever shows it reads it, as
    often as is good for the eye. So a job is not slowed down by being watched.

    total: what is to be done, 0 where that is not known; it may be set later. files: how many files that is,
    where they are counted too. read: gives the reading, in any thread, instead of `advance`.
    """

    def __init__(
        self,
        title: str,
        total: int = 0,
        *,
        unit: Unit = "bytes",
        files: int = 0,
        read: Callable[[], Reading] | None = None,
    ) -> None:
        self.title, self.total, self.unit, self.files = title, total, unit, files
        self.began = time.monotonic()
        self._read = read
        self._last = Reading(0)
        self._lock = threading.Lock()

    def advance(self, amount: int, files: int = 0) -> None:
        """Say that so much more is done; from any thread. What has to be done again is taken away."""
        with self._lock:
            self._last = Reading(self._last.done + amount, self._last.files + files)

    def reading(self) -> Reading:
        """Return how far it is; the last that was known where that cannot be read just now."""
        if self._read is not None:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self._last = self._read()
        return self._last

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self.began


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress(Event):
    """A job that takes its time begins or ends. done, total: in its unit, total 0 where it was not known;
    seconds: how long it took. How far it is in between is for `gauge` to tell, and in no log."""

    kind: ClassVar[str] = "progress"
    job: str
    state: Literal["begin", "end"]
    done: int
    total: int
    unit: Unit
    seconds: float
    gauge: Gauge = field(repr=False, compare=False)

    def to_json(self) -> dict[str, object]:
        """Return the fields that are values."""
        return {
            "event": self.kind, "time": self.time, "step": self.step, "job": self.job, "state": self.state,
            "done": self.done, "total": self.total, "unit": self.unit, "seconds": self.seconds,
        }  # fmt: skip


Subscriber = Callable[[Event], None]

HIDDEN = "***"
"""What stands in place of a secret."""


class Bus:
    """Hands each event to every subscriber, in order of subscription."""

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers = list(subscribers)
        self._announced: list[Note] = []
        self.counts: dict[str, int] = {}
        self._counting: list[Callable[[], Mapping[str, int]]] = []
        self.current = ""
        self._hidden: list[re.Pattern[str]] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)
        for note in tuple(self._announced):
            self._hand(note, (subscriber,))

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.remove(subscriber)

    def emit(self, event: Event) -> None:
        """Hand on an event. A view that cannot be written to any more is dropped, and the others told: no
        build ends because a log's disk is full or its reader has left."""
        if self._hidden:
            event = self._without_secrets(event)
        self._hand(event, tuple(self._subscribers))

    def hide(self, secrets: re.Pattern[str]) -> None:
        """From now on no event has a text that this expression finds."""
        if secrets not in self._hidden:
            self._hidden.append(secrets)

    def masked(self, text: str) -> str:
        """Return a text without what is hidden."""
        for secrets in self._hidden:
            text = secrets.sub(HIDDEN, text)
        return text

    def _without_secrets(self, event: Event) -> Event:
        texts: dict[str, object] = {}
        for item in fields(event):
            value = getattr(event, item.name)
            if isinstance(value, str):
                texts[item.name] = self.masked(value)
            elif isinstance(value, tuple) and all(isinstance(part, str) for part in value):
                texts[item.name] = tuple(map(self.masked, value))
        return replace(event, **texts)  # type: ignore[arg-type]

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

    @contextlib.contextmanager
    def counting(self, read: Callable[[], Mapping[str, int]]) -> Iterator[None]:
        """Add costs at the end of a block, however it ends; until then `so_far` asks for them."""
        self._counting.append(read)
        try:
            yield
        finally:
            self._counting.remove(read)
            for name, amount in read().items():
                self.count(name, amount)

    def so_far(self, name: str) -> int:
        """Return a cost with what is being added to it just now."""
        return self.counts.get(name, 0) + sum(read().get(name, 0) for read in tuple(self._counting))

    @contextlib.contextmanager
    def job(
        self,
        title: str,
        total: int = 0,
        *,
        unit: Unit = "bytes",
        files: int = 0,
        read: Callable[[], Reading] | None = None,
    ) -> Iterator[Gauge]:
        """Show how far a job is while the block runs: see `Gauge`. title: such as `push app:1`."""
        gauge = Gauge(title, total, unit=unit, files=files, read=read)
        self.emit(self._progress(gauge, "begin"))
        try:
            yield gauge
        finally:
            self.emit(self._progress(gauge, "end"))

    def _progress(self, gauge: Gauge, state: Literal["begin", "end"]) -> Progress:
        seconds = round(gauge.seconds, 3) if state == "end" else 0.0
        return Progress(
            step=self.current, job=gauge.title, state=state, done=gauge.reading().done, total=gauge.total,
            unit=gauge.unit, seconds=seconds, gauge=gauge,
        )  # fmt: skip

    def emit_counts(self) -> None:
        for name, amount in sorted(self.counts.items()):
            self.emit(Counted(name=name, amount=amount))
