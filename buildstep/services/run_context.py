"""What a run of services works with, and what it says of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from buildstep.services.inputs import Tag
from buildstep.services.life_cycle import Verb
from buildstep.services.records import Book
from buildstep.services.services_view import ServicesView
from buildstep.services.states import State


class Fate(StrEnum):
    """How it ended with a service."""

    DONE = "done"
    UNCHANGED = "unchanged"
    """Nothing had to be done."""
    LEFT = "left"
    """Nothing was to be done to it: see its message."""
    FAILED = "failed"
    BLOCKED = "blocked"
    """Not done, as one failed that goes before it."""
    STOPPED = "stopped"
    """Not done, or not to its end, as another one failed or a signal came."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How it ended with a service in one phase. ran: names of the actions that ran; failed: the one that
    failed, with its log and its last lines; results: what actions returned, by their names."""

    key: str
    verb: Verb
    fate: Fate
    state: State
    message: str = ""
    ran: tuple[str, ...] = ()
    failed: str = ""
    log: Path | None = None
    tail: tuple[str, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Watcher(Protocol):
    """Is told what happens; from any thread."""

    def running(self, name: str, text: str) -> None:
        """A service is at work. text: which action, and why."""
        ...

    def ended(self, name: str, result: Result) -> None: ...

    def still(self, names: Collection[str]) -> None:
        """These are at work, and none has ended for a while."""
        ...

    def say(self, name: str, text: str) -> None:
        """A line that an action of a service has printed."""
        ...

    def tell(self, text: str) -> None:
        """Something about all of it."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a run works with. at_once: services at a time, 0 for a number that suits the machine; keep_going:
    after a failure, with all that does not depend on it; arguments: of the actions, by their names; book:
    must have a thread of its own for each service and no more."""

    view: ServicesView
    book: Book
    tag: Tag
    watcher: Watcher
    at_once: int = 0
    keep_going: bool = False
    again: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
