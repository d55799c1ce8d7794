"""A talk with the runtime: a call goes in, lines and one outcome come out, over the pipes of a child."""

from __future__ import annotations

import json
import os
import secrets
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from buildstep.errors import CommandFailed
from buildstep.services import runtime, wire
from buildstep.services.interface import Action, Call, Done, Line, Outcome, ServiceError, Side
from buildstep.system import process

RUNTIME = Path(runtime.__file__).parent
"""The directory that a Python is started with."""

MARKER = "BUILDSTEP_ACTION"
"""The variable by which the runtime knows what its action has started."""

SLACK = 60.0
"""Seconds that the runtime may take besides its action: it waits for another of the same service, ends what
does not end by itself, and records."""

_PIPE = -1  # what `subprocess` calls PIPE
_READ = 1 << 16
_NAP = 0.1

BEAT = 10.0
"""Seconds between two signs of life to a runtime that waits for them."""

SILENCE = 90.0
"""Seconds without one after which a runtime on another host ends its action."""


def action_env(base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a runtime that is started here: with a mark that no other call has."""
    kept = ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "DBUS_SESSION_BUS_ADDRESS")
    more = {name: base[name] for name in kept if name in base}
    return process.base_env(base, **more, **{MARKER: secrets.token_hex(16)})


def call_text(call: Call, place: Mapping[str, Any], **moved: Any) -> str:
    """Return a call as the line that the runtime reads. place: what it is told of where it is; moved: facts
    whose paths are others there."""
    data = wire.call_json(call)
    data["facts"].update(moved.pop("facts", {}))
    return wire.text({**data, **moved, "place": dict(place)}) + "\n"


def run(
    argv: Sequence[str], env: Mapping[str, str], text: str, call: Call, line: Line, stopped: threading.Event
) -> Outcome | None:
    """Start a runtime, hand it a call, and return its outcome; None if it ended before it gave one.

    Raises CommandFailed if it ended badly, ServiceError if it says nothing for far too long.
    """
    with process.spawn(argv, env=env, stdin=_PIPE, stdout=_PIPE, timeout=SLACK) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        ends = Ends(child.stdin.fileno(), child.stdout.fileno(), child.stdin.close)
        return Talk(ends, call.timeout, line, stopped).outcome(text)


class Ends(NamedTuple):
    """The ways to a runtime and back: descriptors, what closes the first, and whether anybody is still there
    who may open the other end."""

    write: int
    read: int
    close: Callable[[], object]
    there: Callable[[], bool] = lambda: True


class Talk:
    """One call: see `run`. timeout: the action's."""

    def __init__(self, ends: Ends, timeout: float, line: Line, stopped: threading.Event) -> None:
        self._ends = ends
        self._line = line
        self._stopped = stopped
        self._end = time.monotonic() + timeout + SLACK
        self._rest = b""
        self._beat = time.monotonic()
        self._open = True

    def outcome(self, text: str) -> Outcome | None:
        """Hand over a call, and return its outcome; None if the other side ended before it gave one."""
        os.set_blocking(self._ends.write, False)
        poll = select.poll()
        poll.register(self._ends.read, select.POLLIN)
        waiting = text.encode("utf-8", "surrogateescape")
        while True:
            if self._open and waiting:
                waiting = self._write(waiting)
            elif self._open and time.monotonic() - self._beat > BEAT:
                self._beat = time.monotonic()
                self._write(b"\n")
            if self._stopped.is_set() and self._open:
                self._open = False
                self._ends.close()  # the runtime ends its action, and says so
                self._end = time.monotonic() + SLACK
            if time.monotonic() > self._end:
                raise ServiceError(
                    "the runtime does not answer", hint="what it runs is ended", retryable=True
                )
            there = self._ends.there()
            if not poll.poll(_NAP * (1000 if not waiting else 50)):
                if there:
                    continue
                return None
            data = os.read(self._ends.read, _READ)
            if not data:
                return None
            if (found := self._take(data)) is not None:
                return found

    def _write(self, data: bytes) -> bytes:
        """Write what can be written now; return what is left. The end of the other pipe tells of one who is
        gone."""
        try:
            return data[os.write(self._ends.write, data) :]
        except BlockingIOError:
            return data
        except BrokenPipeError:
            return b""

    def _take(self, data: bytes) -> Outcome | None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for one in lines:
            message = _message(one)
            if message is None:
                self._line(one.decode("utf-8", "backslashreplace"))
                continue
            if "outcome" in message:
                return wire.outcome_of(message["outcome"])
            for text in message["lines"]:
                self._line(text)
        return None


def _message(line: bytes) -> dict[str, Any] | None:
    """Return a message of the runtime; None for what a start file of the shell there prints, JSON or not."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and message.keys() & {"outcome", "lines"} else None


def last_line(output: bytes) -> Any:
    """Return the JSON in the last line of what a host answered; before it may be what its shell's start files
    print. Raises ServiceError."""
    try:
        return json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        raise ServiceError(
            "its answer cannot be read", detail=output[-500:].decode("utf-8", "backslashreplace")
        ) from None


def dones(rows: Sequence[Any]) -> dict[tuple[Side, Action], Done]:
    """Return records by side and action. One that cannot be read counts as none: the action runs again."""
    found = {}
    for row in rows:
        try:
            done = wire.done_of(row)
        except (KeyError, TypeError, ValueError):
            continue
        found[done.side, done.action] = done
    return found


def completed(known: Mapping[tuple[Side, Action], Done], call: Call) -> Outcome | None:
    """Return the outcome that is recorded for just this call, if one is."""
    done = known.get((call.side, call.action))
    return done.outcome if done is not None and call.token and done.token == call.token else None


def broken(where: str, error: CommandFailed | None) -> ServiceError:
    """Return the error for a runtime that ended without an answer."""
    why = f": {error.message}" if error is not None else ""
    return ServiceError(
        f"{where}: the runtime ended before it answered{why}",
        detail=error.detail if error is not None else "",
        hint="what its action had started is ended; run the action again",
        retryable=True,
    )
