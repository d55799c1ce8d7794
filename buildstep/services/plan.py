"""Plan what verbs do to services: which, in which order, and for each action whether it runs, where and why.

Pure: services and their records go in, and nothing is changed or asked. What is executed is decided by the
same rules, with what actions say in place of what is assumed here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, NamedTuple

from buildstep.errors import Fault, SpecError, UsageError
from buildstep.services.decisions import Planned, Verdict, open_decisions
from buildstep.services.inputs import Tag
from buildstep.services.interface import Action, ServiceError
from buildstep.services.life_cycle import Verb, in_order, reversed_order
from buildstep.services.records import Record
from buildstep.services.services_view import Subject
from buildstep.services.states import ABSENT, RUNNING, State, may
from buildstep.spec import schema

FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is asked for. verbs: one after the other, each for all services. names: keys; none: all of them.

    named: whether a person named them, so that one to which it cannot be done is an error, and not left out.
    alone: without what they need, and what needs them. consumers: with what needs them, also where that is
    not the rule. again: do once more what is done.
    """

    verbs: tuple[Verb, ...]
    names: tuple[str, ...] = ()
    named: bool = True
    alone: bool = False
    consumers: bool = False
    again: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A verb for some services. first: for each of them those that go before it; rows: its actions; left: why
    nothing is done to one."""

    verb: Verb
    first: Mapping[str, frozenset[str]]
    rows: Mapping[str, tuple[Planned, ...]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is done, phase by phase. notes: what a person should know besides."""

    wish: Wish
    phases: tuple[Phase, ...]
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> int:
        """How many actions run, or may."""
        return sum(
            row.verdict is not Verdict.SKIP
            for phase in self.phases
            for rows in phase.rows.values()
            for row in rows
        )

    def to_json(self) -> dict[str, Any]:
        """Return the object that `service plan --json` prints; its names are stable."""
        return {
            "format": FORMAT,
            "verbs": [str(verb) for verb in self.wish.verbs],
            "actions": self.runs,
            "notes": list(self.notes),
            "phases": [
                {
                    "verb": str(phase.verb),
                    "services": [
                        {
                            "service": key,
                            "after": sorted(first),
                            "left": phase.left.get(key, ""),
                            "actions": [_row(row) for row in phase.rows.get(key, ())],
                        }
                        for key, first in phase.first.items()
                    ],
                }
                for phase in self.phases
            ],
        }


def _row(row: Planned) -> dict[str, Any]:
    return {
        "action": str(row.unit.action),
        "side": str(row.unit.side),
        "producer": row.unit.producer,
        "verdict": str(row.verdict),
        "reason": row.reason,
        "place": row.place,
    }


class Left(NamedTuple):
    """Why nothing is done to a service. error: whether that is wrong where a person has named it; always:
    also where nobody has."""

    text: str
    error: bool = False
    always: bool = False


class Unfit(ServiceError):
    """What was asked for cannot be done to some services; nothing was done to any."""


def make_plan(
    wish: Wish,
    needs: Mapping[str, Collection[str]],
    subject_of: Callable[[str], Subject],
    records: Mapping[str, Record],
    tag: Tag,
) -> Plan:
    """Return the plan of a wish. needs, records: of all services, by key; subject_of: returns one of them,
    and is asked for no more of them than the plan is about.

    Raises UsageError for names that are none; Unfit for what cannot be done to a service that was named;
    ServiceError for services that need each other in a circle; SpecError with all that is wrong with services
    that `subject_of` raises it for.
    """
    graph = Graph(needs)
    graph.check(wish.names)
    phases, wrong, faults = list[Phase](), list[str](), list[Fault]()
    now = _Now(records)
    for verb in wish.verbs:
        scope = _scope(wish, verb, graph, now)
        left = {key: found for key in scope if (found := _left(verb, key, graph, now, scope))}
        wrong += [
            f"  {key}: {found.text}"
            for key, found in left.items()
            if found.always or (found.error and key in wish.names)
        ]
        rows = {}
        for key in scope:
            if key in left:
                continue
            try:
                rows[key], now[key] = _walk(verb, subject_of(key), now[key], tag, wish)
            except SpecError as error:
                faults += error.faults
        first = graph.first(scope, backwards=reversed_order(verb))
        if not in_order(verb):
            first = dict.fromkeys(scope, frozenset[str]())
        told = {key: found.text for key, found in left.items()}
        phases.append(Phase(verb=verb, first=first, rows=rows, left=told))
    if faults:
        raise SpecError("services", list(dict.fromkeys(faults)))
    if wrong:
        verbs = " and ".join(wish.verbs)
        raise Unfit(f"cannot {verbs}: nothing was done", detail="\n".join(dict.fromkeys(wrong)))
    return Plan(wish=wish, phases=tuple(phases), notes=tuple(_notes(phases, graph, records)))


class _Now(dict[str, Record]):
    """Records as they will be after what is planned. Only those that a plan is about are looked up: one that
    cannot be read is nothing to the others."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        super().__init__()
        self._records = records

    def __missing__(self, key: str) -> Record:
        return self._records[key]


def _walk(
    verb: Verb, subject: Subject, record: Record, tag: Tag, wish: Wish
) -> tuple[tuple[Planned, ...], Record]:
    """Return the actions of a verb for a service, and its record as it will be then, as far as is known."""
    decisions = open_decisions(verb, subject, record, tag, again=wish.again)
    rows = []
    for step, unit in decisions.units():
        answer = decisions.kept(unit)
        row = decisions.decide(step, unit)
        if answer is not None:
            decisions.learn(unit, answer)
            row = replace(row, verdict=Verdict.SKIP, reason="done before the run was interrupted")
        else:
            decisions.assume(row)
        rows.append(row)
    ended = replace(
        record, state=decisions.state, pending=decisions.pending, actions=decisions.actions, underway=None
    )
    return tuple(rows), ended


# -- which services ---------------------------------------------------------------------------------


class Graph:
    """Who needs whom. Raises ServiceError for services that need each other in a circle."""

    def __init__(self, needs: Mapping[str, Collection[str]]) -> None:
        self.direct = {key: needs.keys() & set(wanted) for key, wanted in needs.items()}
        try:
            self.order = list(TopologicalSorter(self.direct).static_order())
        except CycleError as error:
            members = " -> ".join(str(key) for key in reversed(error.args[1]))
            raise ServiceError(f"services need each other in a circle: {members}") from error
        self.needs: dict[str, frozenset[str]] = {}
        for key in self.order:
            below = [self.needs[need] for need in self.direct[key]]
            self.needs[key] = frozenset(self.direct[key]).union(*below)

    def check(self, names: Iterable[str]) -> None:
        """Raise UsageError for names that are no services, all of them."""
        if unknown := [name for name in names if name not in self.direct]:
            hints = [schema.near(name, set(self.direct)) for name in unknown]
            raise UsageError(f"no service {', '.join(unknown)}", hint="; ".join(filter(None, hints)))

    def consumers(self, names: Collection[str]) -> set[str]:
        """Return all that needs one of these, directly or not."""
        wanted = frozenset(names)
        return {key for key, needs in self.needs.items() if needs & wanted}

    def first(self, scope: Sequence[str], *, backwards: bool) -> dict[str, frozenset[str]]:
        """Return for each service of a scope those of it that go before it, also where what is between them
        is not in it."""
        chosen = frozenset(scope)
        if not backwards:
            return {key: self.needs[key] & chosen for key in scope}
        found: dict[str, set[str]] = {key: set() for key in scope}
        for key in scope:
            for need in self.needs[key] & chosen:
                found[need].add(key)
        return {key: frozenset(others) for key, others in found.items()}


def _scope(wish: Wish, verb: Verb, graph: Graph, records: Mapping[str, Record]) -> list[str]:
    """Return the services that a verb is about, in an order in which they can go."""
    chosen = set(wish.names or graph.order)
    restarted = Verb.STOP in wish.verbs and Verb.START in wish.verbs
    if not wish.alone:
        consumers = graph.consumers(chosen)
        if wish.consumers or (verb is Verb.STOP and not restarted):
            chosen |= consumers
        elif verb is Verb.START and restarted:
            chosen |= {key for key in consumers if records[key].state in RUNNING}
        if verb in (Verb.INSTALL, Verb.START):
            chosen |= {need for key in chosen for need in graph.needs[key]}
    order = graph.order[::-1] if reversed_order(verb) else graph.order
    return [key for key in order if key in chosen]


_NOT_INSTALLED: Final = ABSENT | {State.INSTALLED, State.PREPARED}


def _left(
    verb: Verb, key: str, graph: Graph, records: Mapping[str, Record], scope: Collection[str]
) -> Left | None:
    """Return why a verb does nothing to a service; None if it is done."""
    state = records[key].state
    match verb:
        case Verb.INSTALL | Verb.START:
            return _disabled(key, graph, records) or (
                _not_installed(key, graph, records) if verb is Verb.START else None
            )
        case Verb.MONITOR if records[key].disabled:
            return Left("it is disabled")
        case Verb.MONITOR if state not in RUNNING:
            return Left(f"it is {state}")
        case Verb.TEST if not may(state, Action.TEST):
            return Left(f"it is {state}, and not up", error=True)
        case Verb.EXPORT | Verb.IMPORT | Verb.CLEANUP if state in ABSENT:
            return Left(f"it is {state}, and not installed", error=True)
        case Verb.UNINSTALL:
            users = [
                other
                for other in graph.consumers([key])
                if other not in scope and records[other].state not in ABSENT
            ]
            if users:
                return Left(f"{', '.join(sorted(users))} needs it; --consumers takes that too", always=True)
            return Left("nothing of it is installed") if state in ABSENT else None
        case Verb.REMOVE_DATA if not may(state, Action.REMOVE_DATA):
            return Left("it has left no data" if state in ABSENT else f"it is {state}")
        case _:
            return None


def _disabled(key: str, graph: Graph, records: Mapping[str, Record]) -> Left | None:
    if records[key].disabled:
        return Left("it is disabled; `buildstep service enable` changes that", error=True)
    off = sorted(need for need in graph.needs[key] if records[need].disabled)
    return Left(f"it needs {', '.join(off)}, which is disabled", error=True) if off else None


def _not_installed(key: str, graph: Graph, records: Mapping[str, Record]) -> Left | None:
    if records[key].state in _NOT_INSTALLED:
        return Left(f"it is {records[key].state}; `buildstep service install` comes first", error=True)
    gone = sorted(need for need in graph.needs[key] if records[need].state in _NOT_INSTALLED)
    return Left(f"it needs {', '.join(gone)}, which is not installed", error=True) if gone else None


def _notes(phases: Sequence[Phase], graph: Graph, records: Mapping[str, Record]) -> list[str]:
    """Say which consumers of what changes are left as they are."""
    found = []
    for phase in phases:
        if phase.verb is not Verb.INSTALL:
            continue
        changed = [
            key
            for key, rows in phase.rows.items()
            if any(row.unit.action is Action.CONFIGURE and row.verdict is Verdict.RUN for row in rows)
        ]
        outside = sorted(
            key for key in graph.consumers(changed) - phase.first.keys() if records[key].state not in ABSENT
        )
        if outside:
            found.append(f"{', '.join(outside)} may have to take the change too: `buildstep service apply`")
    return found
