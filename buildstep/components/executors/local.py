"""Jobs on this machine: as many at a time as its processors, memory and disk have room for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

from buildstep.components.interface import Job, Result
from buildstep.components.stage import free_bytes
from buildstep.system.workers import cores

JOB_MEMORY: Final = 512 << 20
"""Bytes of memory that must be free for one more job to begin beside others."""

JOB_DISK: Final = 1 << 30
"""Bytes of disk that must be free for the same."""

MORE: Final = 4
"""Jobs for each processor, at most: while processors are idle, as jobs wait for a network or a disk."""

IDLE_SHARE: Final = 0.4
"""The share of one processor that must have been idle for one more job than there are processors."""

_SAMPLE: Final = 0.05
"""Seconds over which the idle share is taken, at least: five ticks of the kernel's clock."""


class Work(Protocol):
    """Does a job to its end. stopped: whether it has to end now."""

    def __call__(self, job: Job, outputs: Mapping[str, str], stopped: threading.Event, /) -> Result: ...


class Machine:
    """What this machine has free. disk: a directory on the file system that jobs write to."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._since = time.monotonic()
        self._idle_before = _idle_seconds()
        self._idle = 0.0

    def memory(self) -> int | None:
        """Return the bytes of memory that are free, None where the system does not tell."""
        try:
            rows = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        found = {name: rest for name, _, rest in (row.partition(":") for row in rows)}
        amount = found.get("MemAvailable", "").split()
        return int(amount[0]) * 1024 if amount else None

    def disk(self) -> int:
        """Return the bytes of disk that are free."""
        return free_bytes(self._disk)

    def idle(self) -> float:
        """Return how many processors were idle since the last question."""
        now = time.monotonic()
        if now - self._since >= _SAMPLE:
            idle = _idle_seconds()
            self._idle = (idle - self._idle_before) / (now - self._since)
            self._since, self._idle_before = now, idle
        return self._idle

    def started(self) -> None:
        """A job was started: it has one of the processors that were idle."""
        self._since, self._idle_before = time.monotonic(), _idle_seconds()
        self._idle = max(0.0, self._idle - 1)


class LocalExecutor:
    """See `interface.Executor`.

    work: does a job. jobs: how many run at a time at most; 0: one for each processor, and more, up to MORE of
    them, while processors are idle.
    """

    def __init__(self, work: Work, machine: Machine, *, jobs: int = 0) -> None:
        self._work, self._machine = work, machine
        self._cores = cores()
        self._most = jobs or MORE * self._cores
        self._always = jobs or self._cores
        self._stopped = threading.Event()
        self._running = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="job")

    @property
    def at_once(self) -> int:
        """As many jobs as run now, or one more where there is room for it. One can always run."""
        with self._lock:
            running = self._running
        return running + 1 if self._has_room(running) else running

    def _has_room(self, running: int) -> bool:
        if not running:
            return True
        if running >= self._most:
            return False
        memory = self._machine.memory()
        if memory is not None and memory < JOB_MEMORY:
            return False
        if self._machine.disk() < JOB_DISK:
            return False
        return running < self._always or self._machine.idle() >= IDLE_SHARE

    def submit(self, job: Job, outputs: Mapping[str, str]) -> Future[Result]:
        with self._lock:
            self._running += 1
        self._machine.started()
        return self._pool.submit(self._do, job, outputs)

    def _do(self, job: Job, outputs: Mapping[str, str]) -> Result:
        try:
            return self._work(job, outputs, self._stopped)
        finally:
            with self._lock:
                self._running -= 1

    def stop(self) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _idle_seconds() -> float:
    """Return the seconds that all processors together were idle since the machine started; 0 if not known.

    Source: proc(5), /proc/stat: the fourth and fifth numbers are idle and waiting for a disk.
    """
    try:
        with open("/proc/stat", encoding="ascii") as stream:
            words = stream.readline().split()
    except OSError:
        return 0.0
    return (int(words[4]) + int(words[5])) / os.sysconf("SC_CLK_TCK")
