"""What lies between a build of components and where its jobs run: what an executor is told, given, asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from buildstep.components.interface import Executor, Job, Result
from buildstep.components.settings import Settings
from buildstep.errors import Fault

Say = Callable[[Job, str], None]
"""Is given each line of a job; from its thread."""

Placed = Callable[[Job, str], None]
"""Is told on which machine a job runs now; from its thread."""

Tell = Callable[[str], None]
"""Is given what a person should know of the build as a whole; from any thread."""


def log_of(state: Path, job: str) -> Path:
    """Return the file below a state directory that has all output of a job's last run."""
    return state / "logs" / f"{quote(job, safe=':')}.log"


class Work(Protocol):
    """Does a job to its end, on this machine. stopped: whether it has to end now. turn: called when all is
    prepared and the work itself comes; it returns when there is room for that, and the seconds that this
    took."""

    def __call__(
        self, job: Job, outputs: Mapping[str, str], stopped: threading.Event, turn: Callable[[], float], /
    ) -> Result: ...


class Dispatch(Protocol):
    """Hands jobs over to other machines, and takes what became of them. Safe to use from several threads.

    place: the URLs of the hand-over with blanks between them, as the other machine is to be told; no password
    is in it.
    """

    @property
    def place(self) -> str: ...

    def send(self, job: Job, outputs: Mapping[str, str]) -> str:
        """Put all that a job needs where other machines find it; return the ticket, 64 hex digits.

        outputs: the digests of what its needs made. Each call gives another ticket: for each try one. Raises
        BuildstepError.
        """
        ...

    def receive(self, job: Job, ticket: str) -> Result | None:
        """Return how a job ended, with its log in a file here; None where nobody has done it (yet).

        What a machine left that was lost in the middle is never taken for a result. Raises BuildstepError.
        """
        ...

    def forget(self, ticket: str) -> None:
        """Remove a ticket, and its result, which nobody needs any more; what was made stays."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """What an executor is told. root: of the repository; jobs: those that may run, by name; at_once: how many
    at a time at most, 0: as many as there is room for; options: its own table in components.toml, and what
    the command line says instead; say, placed, tell: see there."""

    root: Path
    settings: Settings
    state: Path
    environ: Mapping[str, str]
    jobs: Mapping[str, Job] = field(default_factory=dict)
    at_once: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    say: Say = lambda _job, _text: None
    placed: Placed = lambda _job, _worker: None
    tell: Tell = lambda _text: None


class Engine(Protocol):
    """A kind of executor: one object for each row of EXECUTORS, without state.

    far: its jobs run on other machines, so that a hand-over is needed.
    """

    far: bool

    def faults(self, orders: Orders) -> list[Fault]:
        """Return what is wrong with what it is told; nothing is touched."""
        ...

    def start(self, orders: Orders, work: Work, dispatch: Dispatch | None) -> Executor:
        """Return the executor. work: does a job here; dispatch: there for one that is `far`. Raises
        BuildstepError where its machines cannot be reached."""
        ...
