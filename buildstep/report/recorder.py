"""The build record: what went in, what was done, what came out; and the recorder that collects it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from buildstep.events import BuildFinished, Bus, Cleaned, Event, Note, State, StepFinished, StepStarted

FORMAT = 1


@dataclass(slots=True)
class StepResult:
    """One step as it went. started: seconds since the epoch; key: of the layer it made or reused."""

    name: str
    state: State = "run"
    reason: str = ""
    seconds: float = 0.0
    started: float = 0.0
    key: str = ""


@dataclass(slots=True)
class Recorder:
    """Times the steps, emits their events, and keeps what the record will hold."""

    bus: Bus
    total: int = 0
    steps: list[StepResult] = field(default_factory=list)
    cleaned: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    begin: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.bus.subscribe(self._note)

    def _note(self, event: Event) -> None:
        if isinstance(event, Cleaned):
            self.cleaned.append(
                {
                    "cleaner": event.cleaner,
                    "paths": event.paths,
                    "bytes": event.bytes,
                    "names": list(event.names),
                }
            )
        elif isinstance(event, Note) and event.level != "debug":
            self.notes.append({"level": event.level, "text": event.text, "step": event.step})

    @contextlib.contextmanager
    def step(self, name: str, title: str) -> Iterator[StepResult]:
        """A step for the length of a block; the block may set state, reason and key of what it yields."""
        result = StepResult(name, started=time.time())
        self.steps.append(result)
        outer, self.bus.current = self.bus.current, name
        self.bus.emit(StepStarted(step=name, index=len(self.steps), total=self.total, title=title))
        begin = time.monotonic()
        try:
            yield result
        except BaseException as error:
            result.state = "failed"
            result.reason = str(error) or type(error).__name__
            raise
        finally:
            result.seconds = time.monotonic() - begin
            self.bus.emit(
                StepFinished(step=name, state=result.state, seconds=result.seconds, reason=result.reason)
            )
            self.bus.current = outer

    def skip(self, name: str, reason: str, *, state: State = "skip", key: str = "") -> None:
        """A step that had nothing to do, or whose result was found in the cache."""
        self.steps.append(StepResult(name, state=state, reason=reason, started=time.time(), key=key))
        self.bus.emit(StepFinished(step=name, state=state, seconds=0.0, reason=reason))

    def finish(self, *, ok: bool, exit_code: int, message: str = "") -> None:
        self.bus.emit_counts()
        seconds = time.time() - self.begin
        self.bus.emit(BuildFinished(ok=ok, exit_code=exit_code, seconds=seconds, message=message))

    def to_json(self) -> dict[str, Any]:
        """The parts of the record that this recorder knows."""
        return {
            "started": datetime.fromtimestamp(self.begin, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "seconds": round(time.time() - self.begin, 3),
            "steps": [
                {**asdict(step), "seconds": round(step.seconds, 4), "started": round(step.started, 3)}
                for step in self.steps
            ],
            "cleaned": self.cleaned,
            "notes": self.notes,
            "counts": dict(sorted(self.bus.counts.items())),
        }
