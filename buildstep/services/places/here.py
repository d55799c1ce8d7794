"""Actions on this machine: of the management side, and of a node that is this one."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping

from buildstep.errors import CommandFailed
from buildstep.services.interface import Action, Call, Done, Line, Outcome, ServiceError, Side, Where
from buildstep.services.places import talk
from buildstep.services.runtime.records import Locked, Records, state_root

_SECONDS = 30.0
"""How long what a runtime that was killed has left is waited for."""


class _Here:
    """Runs the runtime as a child of this process, by the Python that runs this one."""

    name = ""

    def __init__(self, where: Where) -> None:
        self._environ = where.environ or os.environ
        given = self._environ.get("BUILDSTEP_SERVICES_RECORDS") if where.state is None else str(where.state)
        self._root = state_root(given)
        self._owner = where.owner

    def describe(self) -> str:
        return "here"

    def done(self, key: str) -> Mapping[tuple[Side, Action], Done]:
        return talk.dones(Records(self._root, key).done())

    def run(self, call: Call, line: Line, stopped: threading.Event) -> Outcome:
        argv = [sys.executable, "-I", str(talk.RUNTIME), "run"]
        text = talk.call_text(call, {"state": self._root, "owner": self._owner()})
        failed = None
        try:
            outcome = talk.run(argv, talk.action_env(self._environ), text, call, line, stopped)
            if outcome is not None:
                return outcome
        except CommandFailed as error:
            failed = error
        key = call.facts.key
        try:
            # Whoever kills what is left holds the lock meanwhile.
            with Records(self._root, key).locked(_SECONDS):
                outcome = talk.completed(self.done(key), call)
        except (Locked, OSError):
            outcome = None
        if outcome is None:
            raise talk.broken("here", failed) from failed
        return outcome

    def forget(self, key: str) -> None:
        records = Records(self._root, key)
        try:
            if os.path.lexists(records.folder):
                with records.locked(_SECONDS):
                    records.forget(self._owner())
        except Locked:
            raise ServiceError(f"an action of {key} runs here", retryable=True) from None
        except OSError as error:
            raise ServiceError(f"what is kept of {key} cannot be removed: {error}") from None

    def close(self) -> None:
        pass


class Management(_Here):
    """Where services are managed: this machine, as this user."""

    name = "mgmt"


class Node(_Here):
    """The machine that services run on, where it is this one."""

    name = "node"

    def describe(self) -> str:
        return "this machine"
