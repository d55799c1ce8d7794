"""What was done with each service: `state.json` in its directory, and a log for each run of an action.

The record is written before an action begins and again when it has ended, in one go with the next one that
begins. What a killed run had begun is in it; whether that completed is known where it ran.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote

from buildstep.services.interface import Action, Answer, Line, ServiceError, Side
from buildstep.services.runtime.records import shortened
from buildstep.services.states import State
from buildstep.system.files import read_json, write_json
from buildstep.system.private import private_dir

FORMAT: Final = 1

KEPT: Final = 10
"""Logs of each action of a service that are kept."""


class Unit(NamedTuple):
    """One action of one step of a verb. step: its number in the table; producer: of consume, else empty."""

    step: int
    side: Side
    action: Action
    producer: str = ""

    @property
    def name(self) -> str:
        """What the action is called in records and logs: `node.start`, `mgmt.consume:redis!main`."""
        return f"{self.side}.{self.action}" + (f":{self.producer}" if self.producer else "")


def action_in(name: str) -> str:
    """Return the action in the name of a unit: see `Unit.name`."""
    return name.partition(".")[2].partition(":")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """The last run of an action. inputs: what went into it, without any secret; digest: of them; log: number
    of its log; values: names of what it changed in the configuration."""

    answer: Answer
    message: str = ""
    digest: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    token: str = ""
    started: float = 0.0
    seconds: float = 0.0
    tries: int = 1
    log: int = 0
    values: tuple[str, ...] = ()
    result: Any = None


class Begun(NamedTuple):
    """An action that was begun, and is not known to have ended. token: of its call."""

    unit: Unit
    token: str
    digest: str
    inputs: Mapping[str, Any]
    started: float
    log: int


class Kept(NamedTuple):
    """An action that has ended in the run that is under way, and what it said."""

    unit: Unit
    answer: Answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Underway:
    """A run of a verb that has not ended: it goes on, or whoever ran it was killed. before: the state in
    which it began; pending: `Record.pending` then."""

    verb: str
    run: str
    before: State
    pending: str = ""
    done: tuple[Kept, ...] = ()
    begun: Begun | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """All that is known of a service.

    since: when it came to its state. failed: the action that failed last, empty once it or a later run did
    not. last: the action that ran last. pending: why what runs has not taken all of its configuration.
    """

    state: State = State.NEW
    since: float = 0.0
    disabled: bool = False
    pending: str = ""
    failed: str = ""
    last: str = ""
    actions: Mapping[str, Ran] = field(default_factory=dict)
    underway: Underway | None = None

    def moved(self, state: State, now: float) -> Record:
        """Return the record with another state."""
        return self if state is self.state else replace(self, state=state, since=now)


def to_json(record: Record) -> dict[str, Any]:
    """Return the object that stands in `state.json`."""
    value = asdict(record)
    under = record.underway
    if under is not None:
        value["underway"]["done"] = [{**kept.unit._asdict(), "answer": kept.answer} for kept in under.done]
        if under.begun is not None:
            value["underway"]["begun"] = {**under.begun._asdict(), "unit": under.begun.unit._asdict()}
    return {"format": FORMAT, **value}


def from_json(value: Mapping[str, Any]) -> Record:
    """Return the record in such an object. Raises ValueError, KeyError, TypeError for one that is none."""
    if value["format"] != FORMAT:
        raise ValueError(f"format {value['format']} is not known")
    return Record(
        state=State(value["state"]),
        since=float(value["since"]),
        disabled=bool(value["disabled"]),
        pending=str(value["pending"]),
        failed=str(value["failed"]),
        last=str(value["last"]),
        actions={name: _ran(row) for name, row in value["actions"].items()},
        underway=_underway(value["underway"]),
    )


def _ran(row: Mapping[str, Any]) -> Ran:
    return Ran(**{**row, "answer": Answer(row["answer"]), "values": tuple(row["values"])})


def _underway(row: Mapping[str, Any] | None) -> Underway | None:
    if row is None:
        return None
    begun = row["begun"]
    return Underway(
        verb=row["verb"],
        run=row["run"],
        before=State(row["before"]),
        pending=row["pending"],
        done=tuple(Kept(_unit(kept), Answer(kept["answer"])) for kept in row["done"]),
        begun=None if begun is None else Begun(**{**begun, "unit": _unit(begun["unit"])}),
    )


def _unit(row: Mapping[str, Any]) -> Unit:
    return Unit(row["step"], Side(row["side"]), Action(row["action"]), row["producer"])


class Book:
    """The records of services. folder_of: the directory of a service by its key; durable: whether a record
    must outlive a crash of the machine, which costs a few milliseconds each time."""

    def __init__(self, folder_of: Callable[[str], Path], *, durable: bool = True) -> None:
        self._folder_of, self._durable = folder_of, durable

    def load(self, key: str) -> Record:
        """Return the record of a service, a new one where none was written. Raises ServiceError for one that
        cannot be read: nothing is done to a service of which it is not known what was done before."""
        path = self._folder_of(key) / "state.json"
        try:
            return from_json(read_json(path))
        except FileNotFoundError:
            return Record()
        except (ValueError, KeyError, TypeError, AttributeError, IsADirectoryError) as error:
            raise ServiceError(
                f"{path} is no state of a service: {error}",
                hint="put back a copy of it; or remove it, and all of the service is done anew",
            ) from error

    def tidy(self, key: str) -> None:
        """Remove what a run that was killed while it wrote a record has left; the repository's lock is held.

        Raises OSError.
        """
        for part in self._folder_of(key).glob(".state.json.*.part"):
            part.unlink(missing_ok=True)

    def save(self, key: str, record: Record) -> None:
        """Write the record of a service. Raises OSError."""
        path = self._folder_of(key) / "state.json"
        write_json(path, to_json(record), mode=0o600, durable=self._durable)

    @contextmanager
    def log(self, key: str, name: str) -> Iterator[tuple[int, Line]]:
        """Begin the log of a run of an action; yields its number, and what takes its lines. Old ones go.

        Raises OSError.
        """
        numbers = [number for number, _ in self.logs(key, name)]
        number = max(numbers, default=0) + 1
        path = self._log(key, name, number)
        private_dir(path.parent)
        with open(path, "w", encoding="utf-8", errors="backslashreplace", opener=_private) as stream:
            for old in sorted(numbers)[: 1 - KEPT or None]:
                self._log(key, name, old).unlink(missing_ok=True)
            lock = threading.Lock()

            def line(text: str) -> None:
                with lock:
                    stream.write(f"{stamp()} {text}\n")
                    stream.flush()

            yield number, line

    def logs(self, key: str, name: str = "") -> list[tuple[int, Path]]:
        """Return the logs of an action by their numbers, the oldest first; without a name all of them."""
        folder = self._folder_of(key) / "log"
        found = []
        for path in folder.glob("*.log") if folder.is_dir() else ():
            match = _LOG.fullmatch(path.name)
            if match and (not name or match["name"] == _quoted(name)):
                found.append((int(match["number"]), path))
        return sorted(found)

    def log_path(self, key: str, name: str, number: int) -> Path | None:
        """Return the log with a number, None where it is gone."""
        path = self._log(key, name, number)
        return path if path.is_file() else None

    def _log(self, key: str, name: str, number: int) -> Path:
        return self._folder_of(key) / "log" / f"{_quoted(name)}.{number}.log"


def action_of(log: Path) -> str:
    """Return the name of the action that a log is of, as `Unit.name` has it."""
    return unquote(log.name.rsplit(".", 2)[0])


_LOG = re.compile(r"(?P<name>.+)\.(?P<number>[0-9]+)\.log")


def _quoted(name: str) -> str:
    return shortened(quote(name, safe="!:@|. "))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def stamp(seconds: float | None = None) -> str:
    """Return a time as logs have it, in UTC with milliseconds; now, where none is given."""
    when = dt.datetime.now(dt.UTC) if seconds is None else _utc(seconds)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03}Z"


def _utc(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
