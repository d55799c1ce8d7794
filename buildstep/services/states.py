"""The states of a service, and which action leads from which to which: one table, and nothing else moves one.

Source: the life cycle of AYS (its actions and their documented order), with states where it had none.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from buildstep.services.interface import Action, Answer


class State(StrEnum):
    """What is known of a service. The values stand in `state.json` and are stable."""

    NEW = "new"
    """It was created, and nothing of it is anywhere yet."""
    INSTALLED = "installed"
    """Its files are there."""
    PREPARED = "prepared"
    """So are the packages and users that it needs."""
    CONFIGURED = "configured"
    """It can be started, and was not yet."""
    STARTING = "starting"
    """It was started, and no check has said that it is up."""
    UP = "up"
    """A check said so."""
    UNHEALTHY = "unhealthy"
    """It is up, and its monitor says that something is wrong."""
    DEAD = "dead"
    """A check found that it is not up, and nobody had stopped it."""
    STOPPING = "stopping"
    """It was stopped, and no check has said that it is down."""
    DOWN = "down"
    """It was stopped, and a check said that it is down."""
    UNINSTALLED = "uninstalled"
    """It was removed from where it ran; its data are still there."""
    REMOVED = "removed"
    """So are its data."""


ABSENT: Final = frozenset({State.NEW, State.UNINSTALLED, State.REMOVED})
"""States in which nothing but data is where the service would run."""

RUNNING: Final = frozenset({State.STARTING, State.UP, State.UNHEALTHY, State.DEAD, State.STOPPING})
"""States in which processes of it may run: DEAD too, as a part of it may."""

_ALL = frozenset(State)
_STARTABLE = frozenset({State.CONFIGURED, State.DOWN, State.DEAD, State.STARTING, State.STOPPING})
_STOPPABLE = RUNNING | {State.CONFIGURED, State.DOWN}
_THERE = _ALL - ABSENT


def _stays(states: frozenset[State]) -> dict[State, State]:
    return {state: state for state in states}


YES: Final[Mapping[Action, Mapping[State, State]]] = {
    Action.INIT: _stays(_ALL),
    Action.CONSUME: _stays(_ALL),
    Action.CHECK_REQUIREMENTS: _stays(_ALL),
    Action.INSTALL: {**_stays(_THERE), **dict.fromkeys(ABSENT, State.INSTALLED)},
    Action.PREPARE: {**_stays(_THERE), State.INSTALLED: State.PREPARED},
    Action.CONFIGURE: {**_stays(_THERE - {State.INSTALLED}), State.PREPARED: State.CONFIGURED},
    Action.STOP: dict.fromkeys(_STOPPABLE, State.STOPPING),
    Action.HALT: dict.fromkeys(_STOPPABLE, State.STOPPING),
    Action.CHECK_DOWN: {State.STOPPING: State.DOWN},
    Action.START: dict.fromkeys(_STARTABLE, State.STARTING),
    Action.CHECK_UP: dict.fromkeys(RUNNING, State.UP),
    Action.MONITOR: {State.UP: State.UP, State.UNHEALTHY: State.UP},
    Action.CLEANUP: _stays(_THERE),
    Action.TEST: _stays(frozenset({State.UP, State.UNHEALTHY})),
    Action.DATA_EXPORT: _stays(_THERE),
    Action.DATA_IMPORT: _stays(_THERE),
    Action.UNINSTALL: dict.fromkeys(_THERE - RUNNING, State.UNINSTALLED),
    Action.REMOVE_DATA: {State.UNINSTALLED: State.REMOVED},
}
"""For each action of a service the states in which it may run, and the state after it has completed. What is
not in it cannot happen: a service is not started before it is configured, nor uninstalled while it runs."""

NO: Final[Mapping[Action, Mapping[State, State]]] = {
    Action.STOP: dict.fromkeys(_STOPPABLE, State.STOPPING),
    Action.CHECK_UP: {**dict.fromkeys(RUNNING, State.DEAD), State.STOPPING: State.STOPPING},
    Action.CHECK_DOWN: {State.STOPPING: State.STOPPING},
    Action.MONITOR: {State.UP: State.UNHEALTHY, State.UNHEALTHY: State.UNHEALTHY},
}
"""The state after a check that said no, or after a stop that did not succeed: the hard stop follows it. Any
other action that ends badly leaves the state as it was."""


def may(state: State, action: Action) -> bool:
    """Return whether an action may run in a state."""
    return state in YES.get(action, {})


def after(state: State, action: Action, answer: Answer) -> State:
    """Return the state that an action leads to. It must be one that may run: see `may`."""
    assert may(state, action), f"{action} cannot happen to a service that is {state}"
    if answer is Answer.FAILED:
        return state
    if answer is Answer.NOT:
        return NO.get(action, {}).get(state, state)
    return YES[action][state]
