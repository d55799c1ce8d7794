"""The far side of a job on a dask cluster: what a worker runs. It needs nothing but an installed buildstep.

dask sends it as a name, not as code. The job itself runs in a process of its own, which ends with the worker,
and when nobody wants the job any more: its build was stopped, or has lost the scheduler.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import buildstep
from buildstep.events import Part
from buildstep.system import process
from buildstep.system.command_options import Limits, Reached

FLUSH: Final = 0.2
"""Seconds for which lines of a job are kept back, to be sent together."""

_RUNS: Final = ("executing", "long-running")
"""States of a task on a worker while somebody wants it: `distributed.worker_state_machine`."""

_ENDS: Final = ("closing", "closed", "stopping", "stopped", "failed")
"""States of a worker that has lost the scheduler, or was told to end: `distributed.core.Status`. Its tasks
stay as they were."""


def do(ticket: str, urls: tuple[str, ...], topic: str) -> int:
    """Do the job of a ticket, and return the status of `buildstep components work`.

    urls: of the hand-over. topic: of the events with which its lines travel: `ticket`, `name` of the worker,
    `lines`; the first one has no line, and says that the job begins. Raises CommandFailed if it had to stop.
    """
    from distributed import get_worker

    worker = get_worker()
    key, state = worker.get_current_task(), worker.state
    lines = _Lines(worker, topic, {"ticket": ticket, "name": str(worker.name)})
    lines.send()

    def watch() -> Reached | None:
        lines.due()
        task = state.tasks.get(key)
        wanted = task is not None and task.state in _RUNS and worker.status.name not in _ENDS
        return None if wanted else Reached("stop", "is not wanted any more")

    argv = [
        *_with_us(), sys.executable, "-m", "buildstep", "components", "work", "--name", str(worker.name),
        *(word for url in urls for word in ("--handover", url)), "--", ticket,
    ]  # fmt: skip
    paths = [os.fspath(Path(buildstep.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        limits = Limits(watch=watch)
        return process.run(argv, env=env, line=lines.take, ok=range(256), limits=limits).status
    finally:
        lines.send()


def _with_us() -> list[str]:
    """Return the command line that ends what follows it when this thread does: prctl(2), PR_SET_PDEATHSIG.
    A worker that is killed leaves no job behind."""
    program = process.find("setpriv")
    return [program, "--pdeathsig", "TERM", "--"] if program else []


class _Lines:
    """Sends lines as events of the cluster, some at a time."""

    def __init__(self, worker: Any, topic: str, head: Mapping[str, str]) -> None:
        self._worker, self._topic, self._head = worker, topic, head
        self._lock = threading.Lock()
        self._kept: list[str] = []
        self._sent = 0.0

    def take(self, text: str, part: Part = Part()) -> None:  # noqa: B008 - it cannot be changed
        if part.part <= 1:
            with self._lock:
                self._kept.append(text.rstrip("\n"))
            self.due()

    def due(self) -> None:
        """Send what was kept back for long enough."""
        if self._kept and time.monotonic() - self._sent > FLUSH:
            self.send()

    def send(self) -> None:
        with self._lock:
            kept, self._kept, self._sent = self._kept, [], time.monotonic()
        self._worker.log_event(self._topic, {**self._head, "lines": kept})
