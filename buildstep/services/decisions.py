"""One service's way through a verb: which action is next, whether it runs, and why.

The same walk makes the plan and is what is executed. A plan does not know what actions will say; where that
decides, its row is `if`. Nothing here changes or asks anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from buildstep.services.inputs import ONCE, Tag, changes, digest_of, inputs_of
from buildstep.services.interface import Action, Answer, Side
from buildstep.services.life_cycle import VERBS, Step, Verb, When
from buildstep.services.records import Kept, Ran, Record, Unit
from buildstep.services.services_view import Subject, own_actions
from buildstep.services.states import ABSENT, RUNNING, State, after, may

Maybe = bool | None
"""None: not known before something has run."""


class Verdict(StrEnum):
    """What is planned for an action."""

    RUN = "run"
    SKIP = "skip"
    IF = "if"
    """It runs if what an action before it says asks for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """An action in a plan. reason: for a person; place: where it runs; inputs, digest: what goes into it."""

    key: str
    step: Step
    unit: Unit
    verdict: Verdict
    reason: str
    place: str
    inputs: Mapping[str, Any]
    digest: str


CHANGING: Final = frozenset({Action.INSTALL, Action.PREPARE, Action.CONFIGURE})
"""What takes effect in what runs only by a restart, unless `configure` says that it does not need one."""

TO_RUN: Final = "to run"
"""The token of a run that is planned."""

_SHOWN: Final = 3
"""Changes that a reason names."""


class Decisions:
    """See above. kept: what has ended in the run that is resumed; again: what is done is done once more.

    state, pending, actions: of the service, as they are at this point; see `records.Record`.
    """

    def __init__(
        self,
        verb: Verb,
        subject: Subject,
        record: Record,
        tag: Tag,
        *,
        again: bool = False,
        kept: Sequence[Kept] = (),
    ) -> None:
        self.subject, self.verb = subject, verb
        self.state, self.pending = record.state, record.pending
        self.actions = dict(record.actions)
        self._tag, self._again = tag, again
        self._own = own_actions(subject.source(Side.MANAGEMENT), Side.MANAGEMENT)
        self._kept = {row.unit: row.answer for row in kept}
        self.resumed = record.underway is not None
        begun = record.underway.begun if record.underway is not None else None
        self._begun = None if begun is None else begun.unit
        self._said: dict[int, list[Answer]] = {}
        self._restart: Maybe = False
        self._restart_why = ""
        self._down: Maybe = True
        self._up: Maybe = None
        self._started: Maybe = False
        self._changed = False
        self._unsure = False
        """Whether something is planned to change that what runs may have to be restarted for."""
        self._planning = False

    # -- the walk -----------------------------------------------------------------------------------

    def units(self) -> Iterator[tuple[Step, Unit]]:
        """Yield the actions of the verb that this service has, in order. An action of the management side
        that its own file does not have does nothing, and is left out; so are the other sides of a check
        that has said no."""
        for number, step in enumerate(VERBS[self.verb]):
            if step.when is When.RESTART and step.action is Action.STOP:
                self._find_restart()
            for unit in self._units(number, step):
                if _worst(self._said.get(number, ())) in (Answer.NOT, Answer.FAILED):
                    break
                yield step, unit
            self.end(number, step)

    def _units(self, number: int, step: Step) -> Iterator[Unit]:
        for side in step.sides:
            if side is Side.MANAGEMENT and step.action not in self._own:
                continue
            for producer in self._producers(step.action):
                yield Unit(number, side, step.action, producer)

    def _producers(self, action: Action) -> Sequence[str]:
        if action is not Action.CONSUME:
            return ("",)
        return sorted({row.key for rows in self.subject.facts.producers.values() for row in rows})

    def decide(self, step: Step, unit: Unit) -> Planned:
        """Return what becomes of an action at this point."""
        inputs = self.inputs(unit)
        verdict, reason = self._verdict(step, unit, inputs)
        if unit == self._begun and verdict is Verdict.RUN:
            reason = "it was interrupted"
        return Planned(
            key=self.subject.key,
            step=step,
            unit=unit,
            verdict=verdict,
            reason=reason,
            place="here" if unit.side is Side.MANAGEMENT else self.subject.place,
            inputs=inputs,
            digest=digest_of(inputs),
        )

    def kept(self, unit: Unit) -> Answer | None:
        """Return what an action said that had ended before the run was interrupted; None for one that had
        not."""
        return self._kept.get(unit)

    def learn(self, unit: Unit, answer: Answer, ran: Ran | None = None) -> None:
        """Take what an action has said. ran: its record, None for one that had ended before."""
        self._said.setdefault(unit.step, []).append(answer)
        if ran is not None:
            self.actions[unit.name] = ran
        if answer is Answer.FAILED or unit.action not in CHANGING:
            return
        self._changed = True
        if self.state not in RUNNING:
            return
        if unit.action is not Action.CONFIGURE:
            self.pending = self.pending or f"{unit.action} ran"
        elif answer is Answer.RESTART or (answer is Answer.OK and unit.side is Side.NODE):
            self.pending = "configure ran"
        elif unit.side is Side.NODE:
            self.pending = ""

    def assume(self, row: Planned) -> None:
        """Go on as if an action of a plan had run as it should. What it will say is not known."""
        self._planning = True
        if row.verdict is Verdict.SKIP:
            return
        action = row.unit.action
        if action in ONCE:
            self.actions[row.unit.name] = Ran(
                answer=Answer.OK, inputs=row.inputs, digest=row.digest, token=TO_RUN
            )
        self._changed = self._changed or action in CHANGING
        self._unsure = self._unsure or (action in CHANGING and self.state in RUNNING)
        if row.verdict is Verdict.RUN:
            self._said.setdefault(row.unit.step, []).append(Answer.OK)
            return
        match action:
            case Action.CHECK_UP:
                self._up, self.state = None, State.UP
            case Action.START:
                self._started = None

    # -- what follows from an answer ----------------------------------------------------------------

    def failure(self, step: Step, answer: Answer) -> str:
        """Return what is wrong where an answer ends the run; empty where it goes on."""
        if answer is Answer.FAILED and step.action is not Action.STOP:
            return f"{step.action} failed"
        if answer is Answer.NOT and step.must:
            return {
                Action.CHECK_UP: "it is not up",
                Action.CHECK_DOWN: "it is not down, even after the hard stop",
                Action.MONITOR: "its monitor says that something is wrong",
                Action.CHECK_REQUIREMENTS: "what it requires is not there",
            }.get(step.action, f"{step.action} says no")
        return ""

    def end(self, number: int, step: Step) -> None:
        """Take the state that a step leads to, once its sides have said what they say."""
        said = self._said.get(number)
        if not said:
            return
        answer = _worst(said)
        if step.action is Action.STOP and answer is Answer.FAILED:
            answer = Answer.NOT  # the check and the hard stop follow
        self.state = after(self.state, step.action, answer)
        yes = None if self._planning else answer is Answer.OK
        match step.action:
            case Action.CHECK_DOWN:
                self._down = yes
            case Action.CHECK_UP:
                self._up = yes
            case Action.START if answer is not Answer.FAILED:
                self._started, self.pending = True, ""

    # -- the rules ----------------------------------------------------------------------------------

    def _verdict(self, step: Step, unit: Unit, inputs: Mapping[str, Any]) -> tuple[Verdict, str]:
        match step.when:
            case When.ALWAYS:
                return Verdict.RUN, "asked for"
            case When.CHANGED:
                why = self._why(unit, inputs)
                return (Verdict.RUN, why) if why else (Verdict.SKIP, "done, and nothing changed")
            case When.BEFORE_CHANGE:
                coming = self._coming()
                return (Verdict.RUN, f"{coming} runs") if coming else (Verdict.SKIP, "nothing is changed")
            case When.RESTART:
                why = self._restart_why
                return _choose(self._restart, why if unit.action is Action.STOP else "it was stopped", why)
            case When.MAY_RUN:
                runs = self.state in RUNNING or bool(self._said.get(unit.step))
                return _choose(runs, f"it is {self.state}", _not_running(self.state))
            case When.NOT_DOWN:
                return _choose(_not(self._down), "it is not down", "it is down, or was not stopped")
            case When.PROBE:
                return self._about_probe()
            case When.NOT_UP:
                return _choose(_not(self._up), "it is not up", "it is up")
            case When.STARTED:
                return _choose(self._started, "it was started", "it was not started")
            case When.ANY:
                either: Maybe = True if self._changed or self._started else self._started
                return _choose(either, "something was changed or started", "nothing was changed")

    def _find_restart(self) -> None:
        """Find out whether the service has to be stopped and started for what was changed."""
        started = self.actions.get(f"{Side.NODE}.{Action.START}")
        now = self.inputs(Unit(0, Side.NODE, Action.START))
        if self.state not in RUNNING:
            self._restart, self._restart_why = False, _not_running(self.state)
        elif started is not None and (found := changes(started.inputs, now)):
            self._restart, self._restart_why = True, _few(found)
        elif self.pending:
            self._restart, self._restart_why = True, self.pending
        elif self._unsure:
            self._restart, self._restart_why = None, "configure does not say that what runs has taken it"
        else:
            self._restart, self._restart_why = False, "what runs has all of it"

    def _about_probe(self) -> tuple[Verdict, str]:
        if self.state not in RUNNING:
            self._up = False
            return Verdict.SKIP, _not_running(self.state)
        if self._restart is None:
            return Verdict.IF, "if it is not restarted: is it still up?"
        return Verdict.RUN, f"it is {self.state}: is it still up?"

    def _why(self, unit: Unit, inputs: Mapping[str, Any]) -> str:
        """Say why an action that is done once has to run; empty if it has not."""
        last = self.actions.get(unit.name)
        if last is None:
            return "never done"
        if last.answer in (Answer.FAILED, Answer.NOT):
            return "it failed the last time"
        if found := changes(last.inputs, inputs):
            return _few(found)
        return "asked for" if self._again else ""

    def _coming(self) -> str:
        """Return the first action behind this one that will change something; empty for none."""
        for number, step in enumerate(VERBS[self.verb]):
            if step.action in CHANGING:
                for unit in self._units(number, step):
                    if self._why(unit, self.inputs(unit)):
                        return str(step.action)
        return ""

    def inputs(self, unit: Unit) -> dict[str, Any]:
        """Return what goes into an action at this point; nothing where that decides nothing."""
        if unit.action not in ONCE and unit.action is not Action.START:
            return {}
        found = inputs_of(self.subject, unit.side, unit.action, unit.producer, self._tag)
        if unit.action is Action.CONFIGURE and unit.side is Side.NODE:
            # What is laid out anew may undo what was configured: a run of these is an input like any other.
            for action in (Action.INSTALL, Action.PREPARE):
                last = self.actions.get(f"{Side.NODE}.{action}")
                found[f"after {action}"] = "" if last is None else last.token
        return found


def open_decisions(
    verb: Verb, subject: Subject, record: Record, tag: Tag, *, again: bool = False
) -> Decisions:
    """Return the decisions for a service: from where a killed run of the same verb was, unless what goes into
    the actions that it had done is no longer the same; else from the beginning."""
    under = record.underway
    if under is None:
        return Decisions(verb, subject, record, tag, again=again)
    before = replace(record, state=under.before, pending=under.pending)
    decisions = Decisions(verb, subject, before, tag, again=again, kept=under.done)
    if under.verb == verb and not any(_is_stale(row.unit, decisions) for row in under.done):
        return decisions
    return Decisions(verb, subject, abandoned(subject, record, tag), tag, again=again)


def _is_stale(unit: Unit, decisions: Decisions) -> bool:
    """Return whether an action that was done has to be done again for what has changed since."""
    if unit.action not in ONCE:
        return False
    last = decisions.actions.get(unit.name)
    return last is None or bool(changes(last.inputs, decisions.inputs(unit)))


def abandoned(subject: Subject, record: Record, tag: Tag) -> Record:
    """Return the record of a service whose run was killed and will not be resumed: the state that it had come
    to, where what it had begun counts as half done."""
    under = record.underway
    assert under is not None
    before = replace(record, state=under.before, pending=under.pending)
    decisions = Decisions(Verb(under.verb), subject, before, tag, kept=under.done)
    for _step, unit in decisions.units():
        if (answer := decisions.kept(unit)) is not None:
            decisions.learn(unit, answer)
    found = replace(record, state=decisions.state, pending=decisions.pending, underway=None)
    begun = under.begun.unit.action if under.begun is not None else None
    if begun is Action.START and may(decisions.state, Action.START):
        return replace(found, state=State.STARTING)
    return undone(found) if begun is Action.UNINSTALL or found.state in ABSENT else found


def undone(record: Record) -> Record:
    """Return the record of a service that was uninstalled, at least in part: what is done once is not done
    any more."""
    gone = {f"{side}.{action}" for side in Side for action in (*CHANGING, Action.START)}
    actions = {name: ran for name, ran in record.actions.items() if name not in gone}
    state = record.state if record.state in ABSENT else State.INSTALLED
    return replace(record, state=state, actions=actions, pending="")


def _worst(said: Sequence[Answer]) -> Answer:
    """Return what the sides of a step say together."""
    order = (Answer.FAILED, Answer.NOT, Answer.RESTART, Answer.OK, Answer.NO_RESTART)
    return next((answer for answer in order if answer in said), Answer.OK)


def _choose(runs: Maybe, yes: str, no: str) -> tuple[Verdict, str]:
    if runs is None:
        return Verdict.IF, f"if {yes}"
    return (Verdict.RUN, yes) if runs else (Verdict.SKIP, no)


def _not(value: Maybe) -> Maybe:
    return None if value is None else not value


def _not_running(state: State) -> str:
    return "it is down" if state is State.DOWN else "it was not started"


def _few(found: Sequence[str]) -> str:
    more = len(found) - _SHOWN
    return "; ".join(found[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
