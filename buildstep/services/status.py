"""What is known of services, for a person and for machines: from their records, without asking any place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from buildstep.services.brief import UNKNOWN
from buildstep.services.interface import Answer, ServiceError
from buildstep.services.records import Book, Record, stamp
from buildstep.services.repository import Service
from buildstep.services.states import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """A service and what is known of it. place: where its node side is; unread: why its record cannot be
    read, which is then an empty one."""

    service: Service
    record: Record
    place: str
    unread: str = ""

    @property
    def state(self) -> str:
        """A word of `states.State`, or `unknown` where its record cannot be read."""
        return UNKNOWN if self.unread else str(self.record.state)

    @property
    def trouble(self) -> str:
        """What is wrong with it, in a few words; empty where nothing is."""
        record, found = self.record, [self.unread] if self.unread else []
        if record.underway is not None:
            begun = record.underway.begun
            at = f" at {begun.unit.name}" if begun is not None else ""
            found.append(f"{record.underway.verb} was interrupted{at}")
        if record.failed:
            ran = record.actions.get(record.failed)
            why = f": {ran.message.partition(chr(10))[0]}" if ran is not None and ran.message else ""
            found.append(f"{record.failed} failed{why}")
        if record.pending:
            found.append(f"to be restarted: {record.pending}")
        return "; ".join(found)

    @property
    def is_good(self) -> bool:
        """Whether it is as it should be: up, or disabled and not up."""
        return not self.trouble and (self.record.state is State.UP or self.record.disabled)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; the names are stable."""
        record = self.record
        return {
            "service": self.service.key,
            "parent": None if self.service.parent is None else self.service.parent.key,
            "place": self.place,
            "state": self.state,
            "since": record.since,
            "disabled": record.disabled,
            "last": record.last,
            "good": self.is_good,
            "trouble": self.trouble,
            "actions": {
                name: {
                    "answer": str(ran.answer),
                    "message": ran.message,
                    "started": ran.started,
                    "seconds": ran.seconds,
                    "tries": ran.tries,
                    "log": ran.log,
                }
                for name, ran in record.actions.items()
            },
        }


def gather(services: Sequence[Service], book: Book, place_of: Callable[[str], str]) -> list[Status]:
    """Return the status of services. place_of: returns where one is, by its key. Raises ServiceError."""
    found = []
    for service in services:
        record, unread = Record(), ""
        try:
            record = book.load(service.key)
        except ServiceError as error:
            unread = error.message
        found.append(Status(service=service, record=record, place=place_of(service.key), unread=unread))
    return found


def detail(status: Status) -> Iterator[str]:
    """Yield all that is known of one service, a line each."""
    record = status.record
    yield f"service   {status.service.key}"
    yield f"state     {status.state}{', disabled' if record.disabled else ''}"
    if record.since:
        yield f"since     {stamp(record.since)}"
    yield f"place     {status.place}"
    if status.trouble:
        yield f"trouble   {status.trouble}"
    width = max((len(name) for name in record.actions), default=0)
    for name, ran in sorted(record.actions.items(), key=lambda row: row[1].started):
        bad = ran.answer in (Answer.FAILED, Answer.NOT)
        told = f"  {ran.message.partition(chr(10))[0]}" if bad and ran.message else ""
        yield f"action    {name:{width}}  {ran.answer:10}  {stamp(ran.started)}  {ran.seconds:.2f} s{told}"
