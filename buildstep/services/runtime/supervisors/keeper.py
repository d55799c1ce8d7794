"""The process beside a service's process: starts it again when it fails, bounds its log, ends with it.

It is started from an action, but is none of its processes: a program of its own, in a session of its own,
with nothing of the action's memory. Killed, it leaves the service's process running; the next `start` has
another keeper take it over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from buildstep.services.runtime import cgroup, commands, proc
from buildstep.services.runtime.answers import Failure
from buildstep.services.runtime.records import write
from buildstep.services.runtime.supervisors.status import is_shell

LOG_LIMIT = 4 << 20
"""Bytes of a log; as many more are kept of what was before."""

TICK = 1.0
"""Seconds between two looks at the log, and at a process that is not our child."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a process that failed is started again; twice as many each time that it fails soon."""

STEADY = 60.0
"""Seconds after which a process that failed is taken to have been well."""

_ASKED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Keeper:
    """Keeps one process. spec: what `ProcessSupervisor` sends."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._folder: str = spec["folder"]
        self._log = os.path.join(self._folder, "log")
        self._main: proc.Identity | None = proc.Identity(*spec["adopt"]) if spec["adopt"] else None
        self._child: subprocess.Popen[bytes] | None = None
        self._group: str | None = None
        self._stopping = False
        self._asked: set[proc.Identity] | None = None
        self._restarts = 0
        self._ended = ""
        self._pause = FIRST_PAUSE
        self._started = time.monotonic()
        self._again = 0.0

    def take(self) -> int:
        """Take the lock, start or take over the process; return the lock. Raises Failure, OSError."""
        lock = os.open(os.path.join(self._folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure("it has a keeper already") from None
        proc.adopt_orphans()
        self._group = cgroup.make(self._spec["group"])
        if self._main is None:
            self._start()
        self._save()
        return lock

    def keep(self) -> None:
        """Stay until the process has ended for good."""
        while True:
            seconds = max(0.0, min(TICK, self._again - time.monotonic())) if self._again else TICK
            signum = signal.sigtimedwait({signal.SIGCHLD, *_ASKED}, seconds)
            if signum is not None and signum.si_signo in _ASKED:
                self._stopping = True
            if self._again:
                if self._stopping:
                    break
                if time.monotonic() >= self._again:
                    self._restart()
                continue
            if self._stopping and self._asked is None:
                self._ask({self._main.pid} if self._main else set())
                if is_shell(self._spec["argv"]):
                    self._ask(self._rest())
            if not self._runs() and self._over():
                break
            self._bound_log()
        self._main = None
        self._save()
        cgroup.remove(self._group)

    # -- the process -------------------------------------------------------------------------------------

    def _start(self) -> None:
        spec = self._spec
        program = spec["argv"][0]
        path = program if "/" in program else commands.find(program)
        if path is None:
            raise Failure(f"the program {program} is not installed")
        env = {"PATH": commands.PATH, "LANG": "C.UTF-8"}
        account: dict[str, Any] = {}
        name = spec["user"] or _own_name()
        if name:
            import pwd

            account = commands.as_user(name)
            env.update(HOME=pwd.getpwnam(name).pw_dir, USER=name, LOGNAME=name)
        env.update(spec["environment"])
        marker, _, value = spec["marker"].partition("=")
        env[marker] = value
        above = cgroup.own()
        # What is started is in the group from its first moment; this process leaves it again.
        inside = self._group is not None and cgroup.enter(self._group)
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._child = subprocess.Popen(
                [path, *spec["argv"][1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=spec["directory"] or "/",
                start_new_session=True,
                preexec_fn=_usual_signals,  # noqa: PLW1509 - there are no threads here
                **account,
            )
        except (OSError, subprocess.SubprocessError) as error:
            where = spec["directory"] if getattr(error, "filename", None) == spec["directory"] else path
            raise Failure(f"{where} cannot be started: {getattr(error, 'strerror', error)}") from None
        finally:
            os.close(log)
            if inside and above is not None:
                cgroup.enter(above)
        self._main = proc.identity(self._child.pid)
        self._started = time.monotonic()

    def _restart(self) -> None:
        self._again = 0.0
        self._restarts += 1
        try:
            self._start()
        except Failure as error:
            self._ended = str(error)
            self._plan_restart()
        self._save()

    def _runs(self) -> bool:
        return proc.alive(self._main)

    def _over(self) -> bool:
        """Look at a process that has ended; return whether that is the end."""
        status = self._collect()
        rest = self._rest()
        if self._stopping:
            if rest:
                self._ask(rest)
                return False
            self._ended = ""
            return True
        if status == 0 and rest:
            # It went into the background, as daemons do: the eldest of what is left is the process now.
            known = [one for one in map(proc.identity, rest) if one is not None]
            self._main = min(known, key=lambda one: one.start, default=None)
            self._save()
            return False
        if status == 0:
            self._ended = "it ended with status 0"
            return True
        self._ended = f"it {commands.Result(status).ended}" if status is not None else "it ended"
        cgroup.kill(self._group)
        proc.kill_all(self._rest)
        self._plan_restart()
        self._save()
        return False

    def _plan_restart(self) -> None:
        if time.monotonic() - self._started > STEADY:
            self._pause = FIRST_PAUSE
        self._again = time.monotonic() + self._pause
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)

    def _collect(self) -> int | None:
        """Collect children that have ended; return the status of the process, None where it is not known."""
        status = self._child.poll() if self._child is not None else None
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        self._child = None
        return status

    def _rest(self) -> set[int]:
        """Return what there is besides the process itself: descendants, whoever their parents were."""
        found = proc.family(roots=[os.getpid()], marker=self._spec["marker"])
        return (found | cgroup.members(self._group)) - {os.getpid()}

    def _ask(self, pids: set[int]) -> None:
        """Ask processes to end, each once: a second signal means haste to some programs."""
        self._asked = self._asked or set()
        for known in map(proc.identity, pids):
            if known is not None and known not in self._asked:
                self._asked.add(known)
                proc.send(known, signal.SIGTERM)

    # -- what is written ---------------------------------------------------------------------------------

    def _save(self) -> None:
        state = {
            "keeper": proc.identity(os.getpid()),
            "main": self._main,
            "group": self._group,
            "restarts": self._restarts,
            "ended": self._ended,
        }
        write(os.path.join(self._folder, "state.json"), json.dumps(state) + "\n", 0o600)

    def _bound_log(self) -> None:
        """Move what is in the log to the older one, once it is long. The process writes on to the same file,
        at its new end; what it writes between the two calls is lost."""
        with contextlib.suppress(OSError):
            if os.stat(self._log).st_size > LOG_LIMIT:
                new = f"{self._log}.new"
                shutil.copyfile(self._log, new)
                os.truncate(self._log, 0)
                os.replace(new, f"{self._log}.1")


def _usual_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _own_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def main() -> int:
    """Read what to keep from standard input, answer "ok" or why not on standard output, and stay."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_ASKED})
    keeper = Keeper(json.loads(sys.stdin.buffer.readline()))
    try:
        keeper.take()
        said = "ok\n"
    except (Failure, OSError) as error:
        said = f"{error}\n"
    null = os.open(os.devnull, os.O_RDWR)
    with contextlib.suppress(OSError):
        os.write(1, said.encode("utf-8", "backslashreplace"))
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if said != "ok\n":
        return 1
    keeper.keep()
    return 0
