"""Which actions a verb runs, on which side, in which order, and when: one table.

The order is the documented one of AYS: what is laid out and configured first, then a graceful stop, a check,
the hard stop where the check says that it is not down, then the start, and a check again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from buildstep.services.interface import Action, Side


class Verb(StrEnum):
    """What a person can ask of services. The values are the names of the commands."""

    INSTALL = "install"
    START = "start"
    STOP = "stop"
    HALT = "halt"
    MONITOR = "monitor"
    CLEANUP = "cleanup"
    UNINSTALL = "uninstall"
    REMOVE_DATA = "removedata"
    TEST = "test"
    EXPORT = "export"
    IMPORT = "import"


class When(StrEnum):
    """When a step of a verb runs. The value says it to a person."""

    ALWAYS = "always"
    CHANGED = "when what goes into it changed, or it has not completed"
    BEFORE_CHANGE = "when a later step of these runs: install, prepare, configure"
    RESTART = "when it runs, and a change takes effect only by a restart"
    MAY_RUN = "unless it is known to be down"
    PROBE = "when it is known as started: is it still up?"
    NOT_DOWN = "when the check before says that it is not down"
    NOT_UP = "when it is not up"
    STARTED = "when it was started"
    ANY = "when anything was changed or started"


class Step(NamedTuple):
    """One action of a verb. sides: in this order. must: a check whose no is a failure."""

    action: Action
    sides: tuple[Side, ...]
    when: When
    must: bool = False

    @property
    def checks(self) -> bool:
        """Whether it asks a question: it may be asked again without harm."""
        return self.action in CHECKS


CHECKS: Final = frozenset({Action.CHECK_UP, Action.CHECK_DOWN, Action.MONITOR})

_MGMT = (Side.MANAGEMENT,)
_NODE = (Side.NODE,)
_BOTH = (Side.NODE, Side.MANAGEMENT)
_BACK = (Side.MANAGEMENT, Side.NODE)


def _stopping(when: When) -> tuple[Step, ...]:
    """A graceful stop, a check, a hard stop where it is needed, and a check that must say yes."""
    return (
        Step(Action.STOP, _BOTH, when),
        Step(Action.CHECK_DOWN, _BOTH, when),
        Step(Action.HALT, _BACK, When.NOT_DOWN),
        Step(Action.CHECK_DOWN, _BOTH, When.NOT_DOWN, must=True),
    )


_STARTING = (
    Step(Action.CHECK_UP, _BOTH, When.PROBE),
    Step(Action.START, _BOTH, When.NOT_UP),
    Step(Action.CHECK_UP, _BOTH, When.STARTED, must=True),
)

VERBS: Final[Mapping[Verb, Sequence[Step]]] = {
    Verb.INSTALL: (
        Step(Action.INIT, _MGMT, When.CHANGED),
        Step(Action.CONSUME, _MGMT, When.CHANGED),
        Step(Action.CHECK_REQUIREMENTS, _BACK, When.BEFORE_CHANGE, must=True),
        Step(Action.INSTALL, _NODE, When.CHANGED),
        Step(Action.PREPARE, _NODE, When.CHANGED),
        Step(Action.CONFIGURE, _BOTH, When.CHANGED),
        *_stopping(When.RESTART),
        *_STARTING,
        Step(Action.MONITOR, _BOTH, When.ANY, must=True),
    ),
    Verb.START: _STARTING,
    Verb.STOP: _stopping(When.MAY_RUN),
    Verb.HALT: (
        Step(Action.HALT, _BACK, When.MAY_RUN),
        Step(Action.CHECK_DOWN, _BOTH, When.MAY_RUN, must=True),
    ),
    Verb.MONITOR: (
        Step(Action.CHECK_UP, _BOTH, When.ALWAYS, must=True),
        Step(Action.MONITOR, _BOTH, When.ALWAYS, must=True),
    ),
    Verb.CLEANUP: (Step(Action.CLEANUP, _BOTH, When.ALWAYS),),
    Verb.UNINSTALL: (*_stopping(When.MAY_RUN), Step(Action.UNINSTALL, _BOTH, When.ALWAYS)),
    Verb.REMOVE_DATA: (Step(Action.REMOVE_DATA, _BOTH, When.ALWAYS),),
    Verb.TEST: (Step(Action.TEST, _BOTH, When.ALWAYS),),
    Verb.EXPORT: (Step(Action.DATA_EXPORT, _BOTH, When.ALWAYS),),
    Verb.IMPORT: (Step(Action.DATA_IMPORT, _BOTH, When.ALWAYS),),
}
"""What each verb runs. The side `node` of a service is where it runs; an action of the side `mgmt` runs only
where `actions_mgmt.py` has it."""


def in_order(verb: Verb) -> bool:
    """Return whether a verb goes from service to service in the order of their needs; else all at once, and
    what fails with one is nothing to the others."""
    return verb in (Verb.INSTALL, Verb.START) or reversed_order(verb)


def lasts(verb: Verb) -> bool:
    """Return whether what failed is wrong with a service until it succeeds; what a person asks for once has
    failed for that person."""
    return verb not in (Verb.TEST, Verb.EXPORT, Verb.IMPORT)


def reversed_order(verb: Verb) -> bool:
    """Return whether services go in the order of their needs backwards: what needs another goes first."""
    return verb in (Verb.STOP, Verb.HALT, Verb.UNINSTALL, Verb.REMOVE_DATA)
