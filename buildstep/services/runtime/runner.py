"""Run one action: in a session of its own, with its timeout, watched from both sides, recorded, answered.

    whoever asked ── pipe ── runner ── fork ── the action (own session)
                                 └──── fork ── watcher (own session)

The action ends with the runner (the kernel sees to it), and so does all that it started: the watcher reads a
pipe whose other end only the runner has, and kills what is left when that closes. The runner ends the action
when its own standard input closes: whoever asked is gone, or wants no more. What the action started is found
by its session, by descent, and by a variable in its environment (`MARKER`, whose value is of one call alone).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any, BinaryIO

from buildstep.services.runtime import action, answers, proc
from buildstep.services.runtime.records import Foreign, Locked, Records, state_root
from buildstep.services.runtime.redact import Lines, Redactor
from buildstep.services.runtime.watcher import SPARED, Watcher

MARKER = "BUILDSTEP_ACTION"
"""The variable by which what an action started is known; whoever starts the runner sets it."""

GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL for an action that has to end."""

LOCK_SECONDS = 30.0
"""How long another action of the same service is waited for: one whose caller was cut off ends by itself."""

BACK_OFF = 1.0
"""Seconds before the second try; twice as many before each further one."""

_LAST = ("uninstall", "removedata")
"""After these, whoever wants the key may have it."""

_LONGEST_ANSWER = 16 << 20
_READ = 1 << 16
_PIPES_FULL = 4
"""How often the output's pipe is read once the action has ended, whoever may still write to it."""


class Gone(Exception):
    """Whoever asked has closed the pipe."""


class Runner:
    """One call. asker: the descriptor that closes when the asker is gone; out: where messages go."""

    def __init__(self, call: dict[str, Any], asker: int, out: BinaryIO) -> None:
        self._call = call
        self._asker = asker
        self._out = out
        self._redactor = Redactor(call["secrets"].values())
        place = call.get("place") or {}
        self._timeless = bool(place.get("timeless"))
        # Over a network, silence of the asker means that it is gone as well: no end of a pipe may tell.
        self._heartbeat = float(place.get("heartbeat") or 0)
        self._heard = time.monotonic()
        self._records = Records(state_root(place.get("state")), call["facts"]["key"])
        self._owner = str(place.get("owner") or "")
        self._marker = f"{MARKER}={os.environ.get(MARKER, '')}"
        self._gone = False
        self._data = b""
        self._left: set[int] = set()

    def run(self) -> None:
        """Run the action, record that it completed, and answer."""
        begun, clock = time.time(), time.monotonic()
        outcome: dict[str, Any] = {}
        try:
            with self._records.locked(LOCK_SECONDS) as lock, Watcher(self._marker, lock) as watcher:
                self._wait(0)
                self._records.claim(self._owner)
                if not self._gone:
                    self._records.begin(self._call["side"], self._call["action"])
                said, tries = self._tries(watcher, clock + float(self._call["timeout"]))
                outcome = self._outcome(said, begun, time.monotonic() - clock, tries)
                if outcome["answer"] != answers.FAILED:
                    self._record(outcome)
        except Foreign as error:
            outcome = self._outcome(_failed(str(error)), begun, time.monotonic() - clock, 0)
        except Locked:
            message = "another action of this service runs there already"
            outcome = self._outcome(_failed(message), begun, LOCK_SECONDS, 0)
        except OSError as error:
            # Unknown is what is not recorded: the action is run again.
            message = (
                f"{'it completed, but that' if outcome else 'what it does'} cannot be recorded: {error}. "
                f"Have {self._records.root} be writable there, or BUILDSTEP_SERVICES_RECORDS name another "
                "directory"
            )
            outcome = self._outcome(
                _failed(message), begun, time.monotonic() - clock, outcome.get("tries", 0)
            )
        with contextlib.suppress(Gone):
            self._send({"outcome": outcome})

    def _record(self, outcome: dict[str, Any]) -> None:
        token = self._call["token"]
        if self._timeless:
            outcome, token = {**outcome, "started": 0.0, "seconds": 0.0}, ""
        self._records.complete(
            {
                "side": self._call["side"],
                "action": self._call["action"],
                "digest": self._call["digest"],
                "token": token,
                "outcome": outcome,
            }
        )
        if self._call["action"] in _LAST:
            self._records.release()

    def _outcome(self, said: dict[str, Any], begun: float, seconds: float, tries: int) -> dict[str, Any]:
        outcome = {
            "answer": said["answer"],
            "message": self._redactor.text(str(said["message"])),
            "values": said.get("values") or {},
            "result": said.get("result"),
        }
        if self._redactor.found([outcome["values"], outcome["result"]]):
            # Both are kept in files. That they hold a secret is a mistake of the action.
            outcome["answer"], outcome["values"], outcome["result"] = answers.FAILED, {}, None
            outcome["message"] = (
                "its result or a value that it set has a secret in it; keep a reference there"
            )
        return {**outcome, "started": begun, "seconds": round(seconds, 3), "tries": tries}

    # -- tries ---------------------------------------------------------------------------------------------

    def _tries(self, watcher: Watcher, end: float) -> tuple[dict[str, Any], int]:
        attempt = 1
        while True:
            said = self._attempt(watcher, end)
            pause = BACK_OFF * 2 ** (attempt - 1)
            if not said.get("retryable") or attempt >= self._call["tries"] or self._gone:
                return said, attempt
            if time.monotonic() + pause > end:
                return said, attempt
            self._lines([self._redactor.text(f"{said['message']}; trying again in {pause:g} s")])
            self._wait(pause)
            attempt += 1

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._gone and select.select([self._asker], [], [], max(0.0, end - time.monotonic()))[0]:
            self._gone = not os.read(self._asker, _READ)
            self._heard = time.monotonic()

    def _attempt(self, watcher: Watcher, end: float) -> dict[str, Any]:
        """Run the action's method once, and return what it said."""
        if self._gone:
            return _failed("it was stopped")
        with contextlib.ExitStack() as stack:
            output, result, go = (_Pipe(stack) for _ in range(3))
            pid = os.fork()
            if not pid:
                self._child(output.write, result.write, go.read, watcher)
            for end_of_child in (output, result):
                end_of_child.close_write()
            watcher.watch(pid)
            os.write(go.write, b"\n")
            limit = self._follow(pid, output.read, result.read, end, watcher)
            data, limit = self._answer_data(limit)
            said = _said(data)
            if limit or said is None or said["answer"] == answers.FAILED:
                self._kill(pid)  # a failure leaves nothing, not even a daemon
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if self._left:
            return _failed(f"processes that it started cannot be killed: {sorted(self._left)}")
        if limit:
            return _failed(limit)
        return said or _failed(_why_no_answer(data, status))

    def _answer_data(self, limit: str) -> tuple[bytes, str]:
        data, self._data = self._data, b""
        return data, limit or ("its answer is too long" if len(data) > _LONGEST_ANSWER else "")

    def _child(self, output: int, result: int, go: int, watcher: Watcher) -> None:
        """Be the action: never returns."""
        try:
            runner = os.getppid()
            os.setsid()
            proc.die_with_parent(runner)
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(signum, signal.SIG_DFL)
            null = os.open(os.devnull, os.O_RDWR)
            if os.read(go, 1) != b"\n":
                os._exit(1)  # the runner ended, and nobody watches
            os.dup2(null, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # -1: none
            top = min(200, limit - 1) if limit > 0 else 200  # far from what an action takes for its own
            os.dup2(result, top, inheritable=False)
            os.closerange(3, top)
            os.closerange(top + 1, 4096)
            action.child(self._call, top)
        finally:
            os._exit(1)

    # -- the action while it runs ----------------------------------------------------------------------------

    def _follow(self, pid: int, output: int, result: int, end: float, watcher: Watcher) -> str:
        """Hand on what the action prints until it has ended; return why it had to end, if it had to."""
        lines, self._data = Lines(self._redactor), b""
        why, kill_at = "", 0.0
        for fd in (output, result):
            os.set_blocking(fd, False)
        reading = {output, result}
        nap, looked = 0.002, 0.0
        while True:
            now = time.monotonic()
            if self._heartbeat and now - self._heard > self._heartbeat:
                self._gone = True
            if not why and (now > end or self._gone or _Signals.seen):
                why = "it was stopped" if self._gone or _Signals.seen else self._too_long()
                kill_at = now + GRACE
                _signal(pid, signal.SIGTERM)
            if why and now > kill_at:
                self._kill(pid)
            heard = self._listen(reading, output, lines, nap)
            nap = 0.002 if heard else min(0.05, 2 * nap)
            if heard and now - looked < 0.05:
                continue  # no question to the kernel for each piece of output
            looked = now
            watcher.mend(pid)
            if _ended(pid):
                break
        self._left = proc.kill_all(lambda: _of_session(pid))
        for _ in range(_PIPES_FULL):
            if not self._listen(reading, output, lines, 0):
                break
        self._lines(lines.rest())
        return why

    def _listen(self, reading: set[int], output: int, lines: Lines, seconds: float) -> bool:
        """Read once what there is; return whether there was something."""
        watched = [*reading] if self._gone else [*reading, self._asker]
        ready, _, _ = select.select(watched, [], [], seconds)
        for fd in ready:
            if fd == self._asker:
                self._gone = self._gone or not os.read(fd, _READ)
                self._heard = time.monotonic()
                continue
            data = _read(fd)
            if not data:
                reading.discard(fd)
            elif fd == output:
                self._lines(lines.take(data))
            elif len(self._data) <= _LONGEST_ANSWER:
                self._data += data
        return bool(ready)

    def _too_long(self) -> str:
        return f"it did not end within {float(self._call['timeout']):g} s"

    def _kill(self, pid: int) -> None:
        """Kill the action with all that it started, wherever that went."""
        find = _tree(pid, self._marker)
        proc.kill_all(lambda: find() | ({pid} if not _ended(pid) else set()))

    def _lines(self, texts: list[str]) -> None:
        # Nobody hears it any more: the action is ended at the next look, and what it did is still recorded.
        with contextlib.suppress(Gone):
            if texts:
                self._send({"lines": texts})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._out.write(json.dumps(message).encode() + b"\n")
            self._out.flush()
        except OSError:
            self._gone = True
            raise Gone from None


class _Pipe:
    """A pipe whose ends close with a stack, or before."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.read, self.write = os.pipe()
        self._open = True
        stack.callback(os.close, self.read)
        stack.callback(self.close_write)

    def close_write(self) -> None:
        if self._open:
            self._open = False
            os.close(self.write)


class _Signals:
    """Signals that ask us to end are noted; the action is ended then, and its outcome is told."""

    seen = False

    @classmethod
    def note(cls, *_: Any) -> None:
        cls.seen = True


def _failed(message: str) -> dict[str, Any]:
    return {"answer": answers.FAILED, "message": message}


def _said(data: bytes) -> dict[str, Any] | None:
    """Return what an action said; None if that is no answer."""
    try:
        said = json.loads(data)
        if isinstance(said, dict) and isinstance(said["answer"], str) and isinstance(said["values"], dict):
            return said
    except (ValueError, KeyError):
        pass
    return None


def _why_no_answer(data: bytes, status: int) -> str:
    if data:
        return "its answer cannot be read: something else was written to the answer's descriptor"
    how = f"was killed by {_signal_name(-status)}" if status < 0 else f"ended with status {status}"
    return f"it {how} and gave no answer"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _signal(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)


def _ended(pid: int) -> bool:
    """Return whether a child has ended. It is not collected, so that its number stays its own."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _of_session(pid: int) -> set[int]:
    """Return what an action that has ended left in its session; a daemon made one of its own."""
    return {one.pid for one in proc.table().values() if one.session == pid}


def _tree(pid: int, marker: str) -> Any:
    def find() -> set[int]:
        found = proc.family(roots=[pid, os.getpid()], sessions=[pid], marker=marker, spared=SPARED)
        return found - {os.getpid()} - _own()

    return find


def _own() -> set[int]:
    """Return the processes of ours that have the marker too: the watcher."""
    return set(Watcher.numbers)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _READ)
    except BlockingIOError:
        return b""


def main(talk: str = "") -> int:
    """Read a call from standard input, run it, and write messages to standard output, a line of JSON each.

    talk: a directory with pipes `call` and `said` to be used in their place.
    """
    if talk:
        os.dup2(os.open(os.path.join(talk, "call"), os.O_RDONLY), 0)
        os.dup2(os.open(os.path.join(talk, "said"), os.O_WRONLY), 1)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, _Signals.note)
    proc.adopt_orphans()  # so that what leaves its parent is still found by descent
    asker = sys.stdin.fileno()
    pieces: list[bytes] = []
    while not pieces or not pieces[-1].endswith(b"\n"):
        data = os.read(asker, _READ)
        if not data:
            return 1  # whoever asked ended before it had asked
        pieces.append(data)
    # Nothing that an action starts may hold, or write to, the way to whoever asked.
    out = os.dup(sys.stdout.fileno())
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    with open(out, "wb") as stream:
        Runner(json.loads(b"".join(pieces)), asker, stream).run()
    return 0
