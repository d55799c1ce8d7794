"""One service through one verb, for real: each action is written down, run, and written down again."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from threading import Event
from typing import Any, Final

from buildstep.errors import BuildstepError
from buildstep.services.decisions import Planned, Verdict, open_decisions, undone
from buildstep.services.inputs import digest_of, seconds_of
from buildstep.services.interface import Action, Answer, Call, Done, Line, Outcome, Place, ServiceError, Side
from buildstep.services.life_cycle import CHECKS, Step, Verb, in_order, lasts
from buildstep.services.records import Begun, Kept, Ran, Record, Underway, Unit, action_in
from buildstep.services.run_context import Fate, Result, RunContext
from buildstep.services.services_view import Subject
from buildstep.services.states import State

TIMEOUT: Final = 600.0
"""Seconds that an action may take, unless `timeout.ACTION` of its service says something else."""

UNREACHED: Final = (0.5, 2.0, 5.0)
"""Pauses before a place that could not be reached is tried again, in seconds."""

TAIL: Final = 10
"""Last lines of a failed action that its message has."""


class ServiceRun:
    """See above. stopped: set when all has to end."""

    def __init__(self, work: RunContext, verb: Verb, key: str, stopped: Event) -> None:
        self._work, self._verb, self._key, self._stopped = work, verb, key, stopped
        self._name = ""
        self._record = Record()
        self._ran: list[str] = []
        self._results: dict[str, Any] = {}
        self._log = 0
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._began = time.monotonic()

    def go(self) -> Result:
        """Run the actions that have to run. Raises OSError, and bugs; a failure is a result."""
        try:
            return self._go()
        except BuildstepError as error:
            if self._stopped.is_set():
                return self._result(Fate.STOPPED, "it was stopped")
            if self._name:
                # The run stays under way: what could not be reached may have completed what was begun.
                if lasts(self._verb):
                    self._record = replace(self._record, failed=self._name)
                self._save()
            return self._failed(self._name, _told(error))

    def _go(self) -> Result:
        work = self._work
        work.book.tidy(self._key)
        self._record = work.book.load(self._key)
        subject = work.view.subject(self._key)
        if self._recover():
            subject = work.view.subject(self._key)
        self._decisions = open_decisions(self._verb, subject, self._record, work.tag, again=work.again)
        self._begin()
        for step, unit in self._decisions.units():
            if (answer := self._decisions.kept(unit)) is not None:
                self._decisions.learn(unit, answer)
                continue
            row = self._decisions.decide(step, unit)
            if row.verdict is Verdict.SKIP:
                continue
            assert row.verdict is Verdict.RUN, row
            if self._stopped.is_set():
                self._save()
                return self._result(Fate.STOPPED, "it was stopped before it was done")
            self._name = unit.name
            answer, message = self._act(step, row)
            if answer is None:
                return self._result(Fate.STOPPED, f"{unit.action} was stopped")
            if failure := self._decisions.failure(step, answer):
                self._decisions.end(unit.step, step)
                self._close(failed=unit.name if lasts(self._verb) else "")
                return self._failed(unit.name, f"{failure}: {message}" if message else failure)
        return self._end()

    # -- one action ---------------------------------------------------------------------------------

    def _act(self, step: Step, row: Planned) -> tuple[Answer | None, str]:
        """Run an action and write down what it said; None if it was stopped before its end."""
        unit, work, decisions = row.unit, self._work, self._decisions
        work.watcher.running(self._key, f"{name_of(unit)}: {row.reason}")
        token = uuid.uuid4().hex[:16]
        call = self._call(decisions.subject, row, token)
        with work.book.log(self._key, unit.name) as (number, write):
            self._log = number
            begun = Begun(unit, token, row.digest, dict(row.inputs), round(time.time(), 3), number)
            self._record = replace(self._record, underway=replace(self._underway, begun=begun))
            self._save()
            write(f"# {self._verb}: {unit.name} at {row.place}: {row.reason}")
            place = work.view.place(self._key, unit.side)
            outcome = self._ask(place, call, self._line(write))
            write(f"# {outcome.answer} after {outcome.seconds:.3f} s {outcome.message}".rstrip())
        if outcome.answer is Answer.FAILED and self._stopped.is_set():
            return None, ""
        ran = self._store(begun, outcome)
        if outcome.values:
            decisions.subject = work.view.subject(self._key)
            # What it has set itself is no change that it has to run for again.
            inputs = decisions.inputs(unit)
            ran = replace(ran, inputs=inputs, digest=digest_of(inputs))
        decisions.learn(unit, outcome.answer, ran)
        done = (*self._underway.done, Kept(unit, outcome.answer))
        self._record = replace(
            self._record,
            actions={**self._record.actions, unit.name: ran},
            last=unit.name,
            underway=replace(self._underway, done=done, begun=None),
        )
        self._ran.append(unit.name)
        if outcome.result is not None:
            self._results[unit.name] = outcome.result
        return outcome.answer, outcome.message

    def _call(self, subject: Subject, row: Planned, token: str) -> Call:
        unit, values = row.unit, subject.facts.values
        arguments: Mapping[str, Any] = {}
        if unit.action is Action.CONSUME:
            arguments = {"producer": unit.producer}
        elif unit.action is Action.DATA_IMPORT:
            arguments = self._work.arguments
        limit = values.get(f"timeout.{unit.action}")
        return Call(
            facts=subject.facts,
            side=unit.side,
            action=unit.action,
            digest=row.digest,
            source=subject.source(unit.side),
            secrets=subject.secrets,
            arguments=arguments,
            timeout=TIMEOUT if limit is None else seconds_of(limit, f"{self._key}: timeout.{unit.action}"),
            tries=int(values.get(f"tries.{unit.action}", 1)),
            token=token,
        )

    def _line(self, write: Line) -> Line:
        self._tail.clear()

        def line(text: str) -> None:
            write(text)
            self._tail.append(text)
            self._work.watcher.say(self._key, text)

        return line

    def _ask(self, place: Place, call: Call, line: Line) -> Outcome:
        """Run an action at its place. One that could not be reached is tried again, unless what was asked for
        turns out to have completed there. Raises ServiceError."""
        pauses = iter(UNREACHED)
        again = False
        while True:
            try:
                # The question may fail as the action did, and is asked again as well.
                done = place.done(self._key).get((call.side, call.action)) if again else None
                if done is not None and done.token == call.token:
                    return done.outcome
                return place.run(call, line, self._stopped)
            except ServiceError as error:
                pause = next(pauses, None)
                if not error.retryable or pause is None:
                    raise
                line(f"{error.message}; tried again in {pause:g} s")
                if self._stopped.wait(pause):
                    raise
                again = True

    def _store(self, begun: Begun, outcome: Outcome) -> Ran:
        """Write what an action has changed in the configuration of its service; return its record."""
        if outcome.values:
            self._work.view.store(self._key, outcome.values)
        return Ran(
            answer=outcome.answer,
            message=outcome.message or self._last_line(outcome),
            digest=begun.digest,
            inputs=begun.inputs,
            token=begun.token,
            started=begun.started,
            seconds=round(outcome.seconds, 3),
            tries=outcome.tries,
            log=begun.log,
            values=tuple(sorted(outcome.values)),
            result=outcome.result,
        )

    def _last_line(self, outcome: Outcome) -> str:
        """Return why a check said no: what it has printed last."""
        return self._tail[-1] if outcome.answer is Answer.NOT and self._tail else ""

    # -- the record ---------------------------------------------------------------------------------

    @property
    def _underway(self) -> Underway:
        assert self._record.underway is not None
        return self._record.underway

    def _begin(self) -> None:
        """Begin a run, or go on with the one that was killed."""
        under = self._record.underway
        if under is not None and under.verb == self._verb and self._decisions.resumed:
            return
        under = Underway(
            verb=str(self._verb),
            run=uuid.uuid4().hex[:12],
            before=self._decisions.state,
            pending=self._decisions.pending,
        )
        self._record = replace(self._record, actions=self._decisions.actions, underway=under)

    def _recover(self) -> bool:
        """Find out whether what a killed run had begun has completed; returns whether it has.

        Raises ServiceError where that cannot be asked.
        """
        under = self._record.underway
        if under is None or under.begun is None:
            return False
        begun = under.begun
        place = self._work.view.place(self._key, begun.unit.side)
        done: Done | None = place.done(self._key).get((begun.unit.side, begun.unit.action))
        if done is None or done.token != begun.token or done.outcome.answer is Answer.FAILED:
            return False
        ran = self._store(begun, done.outcome)
        self._record = replace(
            self._record,
            actions={**self._record.actions, begun.unit.name: ran},
            last=begun.unit.name,
            underway=replace(under, done=(*under.done, Kept(begun.unit, done.outcome.answer)), begun=None),
        )
        self._work.book.save(self._key, self._record)
        return True

    def _save(self) -> None:
        self._record = replace(
            self._record.moved(self._decisions.state, round(time.time(), 3)), pending=self._decisions.pending
        )
        self._work.book.save(self._key, self._record)

    def _close(self, failed: str = "") -> None:
        """Write down that the run has ended."""
        before = self._record
        last = before.actions.get(before.failed)
        if not failed and last is not None and last.answer in (Answer.FAILED, Answer.NOT):
            # What a check has said is no longer so once the service was started or stopped.
            gone = in_order(self._verb) and action_in(before.failed) in CHECKS
            failed = "" if gone else before.failed
        self._record = replace(before, underway=None, failed=failed)
        self._save()
        if self._record.state is State.UNINSTALLED or failed.endswith(f".{Action.UNINSTALL}"):
            self._record = undone(self._record)
            self._work.book.save(self._key, self._record)

    def _end(self) -> Result:
        if not self._ran and self._record.state is self._decisions.state and not self._decisions.resumed:
            return self._result(Fate.UNCHANGED, "")
        self._close()
        return self._result(Fate.DONE if self._ran else Fate.UNCHANGED, "")

    # -- results ------------------------------------------------------------------------------------

    def _result(self, fate: Fate, message: str) -> Result:
        return Result(
            key=self._key,
            verb=self._verb,
            fate=fate,
            state=self._record.state,
            message=message,
            ran=tuple(self._ran),
            results=dict(self._results),
            seconds=time.monotonic() - self._began,
        )

    def _failed(self, name: str, message: str) -> Result:
        log = self._work.book.log_path(self._key, name, self._log) if name else None
        result = self._result(Fate.FAILED, message)
        return replace(result, failed=name, log=log, tail=tuple(self._tail))


def _told(error: BuildstepError) -> str:
    parts = [error.message, error.detail, f"hint: {error.hint}" if error.hint else ""]
    return "\n    ".join(part.rstrip() for part in parts if part)


def name_of(unit: Unit) -> str:
    """Return what a person calls an action: `start`, `mgmt.configure`, `mgmt.consume of redis!main`."""
    name = unit.name.removeprefix(f"{Side.NODE}.")
    return name.replace(":", " of ", 1)
