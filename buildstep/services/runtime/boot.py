"""Start the processes of services that were baked into an image, as the first process of a container.

By priority, each once the ports of the one before are listened on. They end in the opposite order on SIGTERM
or SIGINT, and when one of them ends, whose status is then ours. What has no parent any more is collected, as
the first process has to.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from typing import Any

from buildstep.services.runtime import commands, ports
from buildstep.services.runtime.answers import Failure

_NAP = 0.05


class _Stop(Exception):
    """A signal asks us to end."""


def main(path: str) -> int:
    """Run the processes of a file: a list of objects with the fields of `interface.Process`."""
    with open(path, encoding="utf-8") as file:
        rows: list[dict[str, Any]] = json.load(file)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, _stop)
    running: list[tuple[dict[str, Any], subprocess.Popen[bytes]]] = []
    status = 0
    try:
        for row in rows:
            running.append((row, _start(row)))
            _wait_up(row, running)
        while not (ended := _ended(running)):
            _collect({child.pid for _, child in running})
            time.sleep(_NAP)
        status = _told(*ended)
    except _Stop:
        status = 0
    except Failure as error:
        sys.stderr.write(f"{error}\n")
        status = 1
    _end(running)
    return status


def _stop(*_: object) -> None:
    raise _Stop


def _start(row: dict[str, Any]) -> subprocess.Popen[bytes]:
    env = commands.environment(dict(row["environment"]))
    account: dict[str, Any] = {}
    if row["user"]:
        account = commands.as_user(row["user"])
        env.update(HOME=pwd.getpwnam(row["user"]).pw_dir, USER=row["user"], LOGNAME=row["user"])
    program = row["argv"][0] if "/" in row["argv"][0] else commands.find(row["argv"][0])
    if program is None:
        raise Failure(f"{row['name']}: the program {row['argv'][0]} is not installed")
    argv = [program, *row["argv"][1:]]
    where = row["directory"] or "/"
    try:
        return subprocess.Popen(
            argv, env=env, cwd=where, stdin=subprocess.DEVNULL, start_new_session=True, **account
        )
    except OSError as error:
        raise Failure(f"{row['name']} cannot be started: {error.strerror}") from None


def _wait_up(row: dict[str, Any], running: list[tuple[dict[str, Any], subprocess.Popen[bytes]]]) -> None:
    end = time.monotonic() + row["start_seconds"]
    for port in row["ports"]:
        # Without /proc, which not every container has, the kernel tells nothing: then the port is tried.
        while not (ports.wait(port, _NAP) or ports.wait(port, 0.0, "127.0.0.1")):
            if ended := _ended(running):
                raise Failure(f"{row['name']} does not get up: {ended[0]['name']} ended")
            if time.monotonic() > end:
                raise Failure(
                    f"{row['name']} does not listen on port {port} after {row['start_seconds']:g} s"
                )


def _ended(
    running: list[tuple[dict[str, Any], subprocess.Popen[bytes]]],
) -> tuple[dict[str, Any], subprocess.Popen[bytes]] | None:
    return next(((row, child) for row, child in running if child.poll() is not None), None)


def _told(row: dict[str, Any], child: subprocess.Popen[bytes]) -> int:
    status = child.returncode
    sys.stderr.write(f"{row['name']} ended with status {status}\n")
    return status if status >= 0 else 128 - status


def _end(running: list[tuple[dict[str, Any], subprocess.Popen[bytes]]]) -> None:
    """End what runs, the last that was started first."""
    for row, child in reversed(running):
        _signal(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired, _Stop):
            child.wait(row["stop_seconds"])
        _signal(child.pid, signal.SIGKILL)
        child.wait()


def _signal(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)


def _collect(own: set[int]) -> None:
    """Collect children that are not ours: their parents have ended. Ours are left to `subprocess`."""
    if os.getpid() != 1:
        return
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in own:
            return
        os.waitpid(found.si_pid, 0)
