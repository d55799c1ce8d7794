"""The process that outlives a runner that is killed, and kills what its action has started."""

from __future__ import annotations

import contextlib
import os
import signal

from buildstep.services.runtime import proc

SPARED = "BUILDSTEP_PROCESS="
"""The beginning of the variable that processes of services have: they live on when an action does not."""

_AGAIN = 3


class Watcher:
    """A fork of the runner that does nothing before the runner has ended. A context manager.

    marker: the variable by which what an action started is known. lock: the service's, which it holds until
    all is killed, so that the next action waits for that.
    """

    numbers: tuple[int, ...] = ()
    """The watchers of this process: at most one."""

    def __init__(self, marker: str, lock: int) -> None:
        self._marker = marker
        self._lock = lock
        self._pid = 0
        self._pipe = -1
        self._starts = 0

    def __enter__(self) -> Watcher:  # noqa: PYI034 - Python 3.9 has no Self
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._tell("end")
        self._close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def watch(self, pid: int) -> None:
        """Have it know the action's process, which is the head of a session."""
        self._tell(str(pid))

    def mend(self, pid: int) -> None:
        """Start another one if somebody has killed it."""
        if self._starts > _AGAIN or not os.waitpid(self._pid, os.WNOHANG)[0]:
            return
        self._close()
        self._start()
        self.watch(pid)

    def _start(self) -> None:
        read, self._pipe = os.pipe()
        self._starts += 1
        self._pid = os.fork()
        if not self._pid:
            try:
                os.setsid()
                for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(signum, signal.SIG_IGN)
                _close_all_but(read, self._lock)
                _wait(read, self._marker)
            finally:
                os._exit(0)
        os.close(read)
        Watcher.numbers = (self._pid,)

    def _tell(self, word: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it was killed: `mend` starts another
            os.write(self._pipe, f"{word}\n".encode())

    def _close(self) -> None:
        os.close(self._pipe)
        Watcher.numbers = ()


def _close_all_but(*kept: int) -> None:
    low = 0
    for fd in sorted(kept):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 4096)


def _wait(pipe: int, marker: str) -> None:
    """Read until the runner has ended; unless it said so, kill the action."""
    said = b""
    while data := os.read(pipe, 4096):
        said += data
    words = said.decode().split()
    if words and words[-1] == "end":
        return
    sessions = [int(word) for word in words]
    proc.kill_all(lambda: proc.family(sessions=sessions, roots=sessions, marker=marker, spared=SPARED))
