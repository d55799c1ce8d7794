"""A repository of services and a place in memory: what ran, in which order, and what is up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from buildstep.services.inputs import make_key, tagger
from buildstep.services.interface import Action, Answer, Call, Done, Facts, Line, Outcome, Process, Side
from buildstep.services.plan import Plan, Wish, make_plan
from buildstep.services.records import Book, Record
from buildstep.services.run_context import Result, RunContext
from buildstep.services.services_view import Subject


class Killed(BaseException):
    """What happens to a process that gets SIGKILL: nothing of it goes on."""


Say = Callable[[Call], Outcome | Answer | None]
"""Says how an action ends; None: as it should."""


@dataclass
class MemoryPlace:
    """A place whose processes are a set of keys. say: see `Say`; may raise what befalls the one who asked,
    `late` after the place has recorded that the action completed."""

    name: str = "node"
    say: Say = lambda _call: None
    late: Callable[[Call], None] = lambda _call: None
    ran: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    up: set[str] = field(default_factory=set)
    records: dict[str, dict[tuple[Side, Action], Done]] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def describe(self) -> str:
        return "in memory"

    def done(self, key: str) -> Mapping[tuple[Side, Action], Done]:
        return self.records.get(key, {})

    def run(self, call: Call, line: Line, stopped: threading.Event) -> Outcome:
        said = self.say(call)
        key, action = call.facts.key, call.action
        with self.lock:
            outcome = said if isinstance(said, Outcome) else Outcome(answer=said or self.default(call))
            if outcome.answer is not Answer.FAILED:
                self.ran.append(f"{key} {call.side}.{action}")
                self.calls.append(call)
                self._act(key, action, outcome.answer)
                done = Done(action, call.side, call.digest, outcome, call.token)
                self.records.setdefault(key, {})[call.side, action] = done
        line(f"{action} of {key}")
        self.late(call)
        return outcome

    def default(self, call: Call) -> Answer:
        if call.side is Side.MANAGEMENT:
            return Answer.OK
        is_up = call.facts.key in self.up
        match call.action:
            case Action.CHECK_UP | Action.MONITOR:
                return Answer.OK if is_up else Answer.NOT
            case Action.CHECK_DOWN:
                return Answer.NOT if is_up else Answer.OK
        return Answer.OK

    def _act(self, key: str, action: Action, answer: Answer) -> None:
        if action is Action.START:
            self.up.add(key)
        elif action is Action.HALT or (action is Action.STOP and answer is Answer.OK):
            self.up.discard(key)

    def forget(self, key: str) -> None:
        self.forgotten.append(key)
        self.records.pop(key, None)

    def close(self) -> None:
        pass


@dataclass
class MemoryWorld:
    """Services whose facts stand in a dictionary; each has a directory of its own, for its files."""

    top: Path
    facts: dict[str, Facts] = field(default_factory=dict)
    needed: dict[str, frozenset[str]] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    node: MemoryPlace = field(default_factory=MemoryPlace)
    here: MemoryPlace = field(default_factory=lambda: MemoryPlace("mgmt"))

    def add(self, key: str, needs: Iterable[str] = (), **values: Any) -> None:
        name, _, instance = key.partition("!")
        producers = {self.facts[need].role: [self.facts[need]] for need in needs}
        self.facts[key] = Facts(
            key=key,
            name=name,
            instance=instance,
            role=name,
            values=values.pop("values", {}),
            producers=producers,
            processes=[Process(1, name, [name])],
            **values,
        )
        self.needed[key] = frozenset(needs)
        (self.top / key).mkdir(exist_ok=True, parents=True)

    def change(self, key: str, **values: Any) -> None:
        """Change fields of the facts of a service; those that use it see it."""
        self.facts[key] = replace(self.facts[key], **values)

    def needs(self) -> Mapping[str, Collection[str]]:
        return self.needed

    def subject(self, key: str) -> Subject:
        facts = self.facts[key]
        producers = {role: [self.facts[row.key] for row in rows] for role, rows in facts.producers.items()}
        return Subject(
            facts=replace(facts, producers=producers),
            folder=self.top / key,
            place="in memory",
            secrets=self.secrets.get(key, {}),
        )

    def place(self, key: str, side: Side) -> MemoryPlace:
        return self.here if side is Side.MANAGEMENT else self.node

    def store(self, key: str, values: Mapping[str, Any]) -> None:
        self.change(key, values={**self.facts[key].values, **values})

    def remove(self, key: str) -> None:
        del self.facts[key], self.needed[key]

    def close(self) -> None:
        pass


class MemoryBook(Book):
    """Records and logs in memory; the logs are forgotten."""

    def __init__(self, folder_of: Callable[[str], Path]) -> None:
        super().__init__(folder_of, durable=False)
        self.records: dict[str, Record] = {}

    def load(self, key: str) -> Record:
        return self.records.get(key, Record())

    def save(self, key: str, record: Record) -> None:
        self.records[key] = record

    @contextmanager
    def log(self, key: str, name: str) -> Iterator[tuple[int, Line]]:
        yield 1, lambda _text: None


@dataclass
class Seen:
    """A watcher that remembers."""

    lines: list[str] = field(default_factory=list)

    def running(self, name: str, text: str) -> None:
        self.lines.append(f"{name}: {text}")

    def ended(self, name: str, result: Result) -> None:
        self.lines.append(f"{name}: {result.fate}")

    def still(self, names: Collection[str]) -> None:
        self.lines.append(f"still {', '.join(names)}")

    def say(self, name: str, text: str) -> None:
        self.lines.append(f"{name}| {text}")

    def tell(self, text: str) -> None:
        self.lines.append(text)


def book_of(world: MemoryWorld) -> Book:
    return Book(lambda key: world.top / key, durable=False)


def work_of(world: MemoryWorld, book: Book | None = None, **how: Any) -> RunContext:
    """Return what a run in memory works with."""
    make_key(world.top)
    return RunContext(
        view=world,
        book=book or book_of(world),
        tag=tagger(world.top),
        watcher=how.pop("watcher", None) or Seen(),
        **how,
    )


def plan_of(wish: Wish, work: RunContext) -> Plan:
    world = work.view
    return make_plan(
        wish,
        world.needs(),
        world.subject,
        {key: work.book.load(key) for key in world.needs()},
        work.tag,
    )
