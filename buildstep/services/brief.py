"""What is known of services in a few words, for lists: their state, since when, and what ran last."""

from __future__ import annotations

from typing import Final, NamedTuple

from buildstep.services.interface import ServiceError
from buildstep.services.records import Book
from buildstep.services.repository import Service
from buildstep.services.states import ABSENT, State

UNKNOWN: Final = "unknown"
"""The state of a service whose record cannot be read."""


class Brief(NamedTuple):
    """state: a word of `states.State`, or `unknown` if its record cannot be read; since: seconds since the
    epoch, 0 for a new one; last: the action that ran last."""

    state: str = State.NEW.value
    since: float = 0.0
    last: str = ""
    disabled: bool = False

    @property
    def installed(self) -> bool:
        """Whether something of it may be where it runs."""
        return self.state not in ABSENT


def brief_of(service: Service) -> Brief:
    """Return what is known of a service."""
    try:
        record = Book(lambda _: service.folder).load(service.key)
    except (ServiceError, OSError):
        return Brief(state=UNKNOWN)
    return Brief(record.state.value, record.since, record.last, record.disabled)
