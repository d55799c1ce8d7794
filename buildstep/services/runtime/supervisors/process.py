"""A supervised process where there is no systemd: a keeper process of our own beside each.

In the service's records, `processes/N/`: `state.json` (who keeps it, which process it is: number, start time
and boot id), `lock` (held while a keeper is there), `log` and `log.1`. A number alone is never believed:
the kernel gives it to another process once this one has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from typing import Any

from buildstep.services.runtime import cgroup, commands, proc
from buildstep.services.runtime.answers import Failure
from buildstep.services.runtime.records import read_json
from buildstep.services.runtime.service import Process, Service
from buildstep.services.runtime.supervisors.status import Status
from buildstep.services.runtime.watcher import SPARED

RUNTIME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_KILL_SECONDS = 5.0
_TAIL = 1 << 16


def marker_of(key: str, number: int) -> str:
    """Return the variable by which what belongs to a process is known, as NAME=VALUE."""
    return f"{SPARED}{key}:{number}"


class ProcessSupervisor:
    """See `Supervisor`."""

    def __init__(self, service: Service, process: Process) -> None:
        self._service = service
        self._process = process
        self._names = ("processes", str(process.number))
        self._folder = service.records.path(*self._names)
        self._marker = marker_of(service.key, process.number)

    @staticmethod
    def usable() -> bool:
        return os.path.exists("/proc/self/stat")

    def start(self) -> None:
        state = self._state()
        main = _identity(state.get("main"))
        kept = self._kept()
        if kept and proc.alive(main):
            return
        if kept:  # it is about to start the process again, or to end
            self.halt()
            main = None
        elif not proc.alive(main):
            self._kill_rest(state)  # of one whose head is gone, such as after a kill of all that had a name
            main = None
        self._service.records.make(*self._names)
        answer = self._launch(main)
        if answer:
            raise Failure(f"process {self._process.name}: {answer}")

    def _launch(self, main: proc.Identity | None) -> str:
        """Start a keeper, for a process that runs already or a new one; return why it could not, if so."""
        one = self._process
        spec = {
            "folder": self._folder,
            "argv": one.argv,
            "directory": one.directory,
            "environment": one.environment,
            "user": one.user,
            "marker": self._marker,
            "group": f"buildstep.{os.path.basename(self._service.records.folder)}.{one.number}",
            "adopt": main,
        }
        env = {
            name: value
            for name, value in commands.environment({}).items()
            if not name.startswith("BUILDSTEP_")
        }
        env[SPARED.rstrip("=")] = f"keeper of {self._service.key}:{one.number}"
        keeper = subprocess.Popen(
            [sys.executable, "-I", RUNTIME, "keep"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            cwd="/",
            start_new_session=True,
        )
        commands.started += 1
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        with keeper.stdout, contextlib.suppress(BrokenPipeError):
            with keeper.stdin:
                keeper.stdin.write(json.dumps(spec).encode() + b"\n")
            answer = keeper.stdout.read()  # to its end: the keeper closes it when it has answered
        if answer == b"ok\n":
            keeper.returncode = 0  # it goes on, and is nobody's child when the action has ended
            return ""
        keeper.wait()
        return (
            answer.decode("utf-8", "replace").strip() or f"its keeper ended with status {keeper.returncode}"
        )

    def stop(self) -> bool:
        state = self._state()
        keeper, main = _identity(state.get("keeper")), _identity(state.get("main"))
        asked = self._kept() and proc.send(keeper, signal.SIGTERM)
        # Where nobody keeps it, what there is of it is asked by ourselves.
        if not asked and not proc.send(main, signal.SIGTERM):
            for pid in self._family(state):
                proc.send(proc.identity(pid), signal.SIGTERM)
        return proc.wait_until(self._gone, self._process.stop_seconds)

    def halt(self) -> bool:
        state = self._state()
        if self._kept():
            proc.send(_identity(state.get("keeper")), signal.SIGKILL)  # or it would start the process again
        return self._kill_rest(state)

    def _kill_rest(self, state: dict[str, Any]) -> bool:
        group = state.get("group")
        # Those that left the group, or where there is none, are found once more while their parents live.
        family = {pid: proc.identity(pid) for pid in self._family(state)}
        cgroup.kill(group)

        def find() -> set[int]:
            return {pid for pid, known in family.items() if proc.alive(known)} | self._family(state)

        left = proc.kill_all(find, _KILL_SECONDS)
        cgroup.remove(group)
        return not left

    def status(self) -> Status:
        state = self._state()
        main = _identity(state.get("main"))
        pids = self._family(state)
        running = main.pid if main is not None and proc.alive(main) else 0
        failed, kept = str(state.get("ended", "")), self._kept()
        if not running and not kept and not failed:  # with a keeper it may have just ended: that tells how
            failed = "it is gone" if main is not None else "it does not run"
        return Status(running, frozenset(pids), failed, int(state.get("restarts", 0)), kept)

    def tail(self, lines: int) -> list[str]:
        with contextlib.suppress(OSError), open(os.path.join(self._folder, "log"), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read().decode("utf-8", "backslashreplace").splitlines()[-lines:]
        return []

    def remove(self) -> None:
        import shutil

        cgroup.remove(self._state().get("group"))
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder)

    # -- what there is of it -----------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        state = read_json(os.path.join(self._folder, "state.json"))
        return state if isinstance(state, dict) else {}

    def _kept(self) -> bool:
        """Return whether a keeper is there: it holds the lock for as long as it lives."""
        try:
            with open(os.path.join(self._folder, "lock"), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _gone(self) -> bool:
        return not self._kept() and not self._family(self._state())

    def _family(self, state: dict[str, Any]) -> set[int]:
        """Return the processes that belong to this one; the keeper is not among them."""
        keeper, main = _identity(state.get("keeper")), _identity(state.get("main"))
        roots, sessions = set(), set()
        if keeper is not None and proc.alive(keeper):
            roots.add(keeper.pid)
        if main is not None and proc.alive(main):
            roots.add(main.pid)
            sessions.add(main.pid)
        found = proc.family(roots=roots, sessions=sessions, marker=self._marker)
        if sessions:
            found |= sessions
        return (found | cgroup.members(state.get("group"))) - {keeper.pid if keeper else 0}


def _identity(data: Any) -> proc.Identity | None:
    return proc.Identity(*data) if data else None
