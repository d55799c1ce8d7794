"""The recorder: times the steps of a build, emits their events, and makes the build record of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from buildstep.errors import BuildstepError, VulnerableError
from buildstep.events import (
    BuildFinished,
    Bus,
    Checked,
    Cleaned,
    Event,
    Note,
    State,
    StepFinished,
    StepStarted,
)
from buildstep.report.record import BuildRecord, Check, Cleaner, Command, Failure, Remark, Step
from buildstep.spec.load import BuildSpec


@dataclass(slots=True)
class Recorder:
    """Time the steps of a build, emit their events, and keep what the record will hold."""

    bus: Bus
    total: int = 0
    steps: list[Step] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    cleaned: list[Cleaner] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)
    begin: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.bus.subscribe(self._note)

    def _note(self, event: Event) -> None:
        if isinstance(event, Cleaned):
            self.cleaned.append(
                Cleaner(cleaner=event.cleaner, paths=event.paths, bytes=event.bytes, names=event.names)
            )
        elif isinstance(event, Checked):
            self.checks.append(
                Check(
                    check=event.check,
                    group=event.group,
                    result=event.result,
                    seconds=round(event.seconds, 3),
                    message=event.message,
                    lines=event.lines,
                )
            )
        elif isinstance(event, Note) and event.level != "debug":
            self.notes.append(Remark(level=event.level, text=event.text, step=event.step))

    @contextlib.contextmanager
    def step(self, name: str, title: str) -> Iterator[Step]:
        """Run a block as a step; the block may set state, reason and key of what it is given."""
        result = Step(name=name, started=time.time())
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
        """Record a step that had nothing to do, or whose result was found in the cache."""
        self.steps.append(Step(name=name, state=state, reason=reason, started=time.time(), key=key))
        self.bus.emit(StepFinished(step=name, state=state, seconds=0.0, reason=reason))

    def finish(self, *, ok: bool, exit_code: int, message: str = "") -> None:
        """Emit the counted costs and the end of the build."""
        self.bus.emit_counts()
        seconds = time.time() - self.begin
        self.bus.emit(BuildFinished(ok=ok, exit_code=exit_code, seconds=seconds, message=message))

    def record(self, spec: BuildSpec, build_id: str) -> BuildRecord:
        """Return the record of a good build so far; whoever knows what came out of it adds that."""
        return BuildRecord(
            build_id=build_id,
            name=spec.name,
            version=spec.version,
            ok=True,
            inputs={"image": {}, "proto": {}, "manifest": dict(spec.manifest), "spec": spec.to_json()},
            started=datetime.fromtimestamp(self.begin, UTC),
            seconds=round(time.time() - self.begin, 3),
            steps=tuple(
                replace(step, seconds=round(step.seconds, 4), started=round(step.started, 3))
                for step in self.steps
            ),
            commands=tuple(self.commands),
            checks=tuple(self.checks),
            cleaned=tuple(self.cleaned),
            notes=tuple(self.notes),
            counts=dict(sorted(self.bus.counts.items())),
        )

    def failed_record(
        self, spec: BuildSpec, build_id: str, error: BaseException, exit_code: int
    ) -> BuildRecord:
        """Return the record of a build that ended with this error."""
        failure = Failure(message=str(error) or type(error).__name__)
        if isinstance(error, BuildstepError):
            failure = replace(failure, detail=error.detail, hint=error.hint)
        trust = error.found if isinstance(error, VulnerableError) else {}
        record = self.record(spec, build_id)
        return replace(record, ok=False, exit_code=exit_code, error=failure, trust=trust)
