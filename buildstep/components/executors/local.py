"""Jobs on this machine: as many at a time as its processors, memory and disk have room for."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
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
"""Jobs for each processor, at most: while fewer of their processes want a processor than there are."""

_WINDOW: Final = 0.06
"""Seconds for which a processor must have been free for one more job than there are processors."""

_FEW: Final = 64
"""Processes that are looked at one by one; where there are more of them, they are not all of this build."""


class Work(Protocol):
    """Does a job to its end. stopped: whether it has to end now."""

    def __call__(self, job: Job, outputs: Mapping[str, str], stopped: threading.Event, /) -> Result: ...


class Machine:
    """What this machine has free. disk: a directory on the file system that jobs write to."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._samples: deque[tuple[float, int]] = deque()

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

    def wanted(self) -> int:
        """Return how many processors are wanted now, or were a moment ago: by this build where it has its own
        processes, which other work on the machine does not change, else by all."""
        self._note(_wanting())
        return max(count for _, count in self._samples)

    def started(self) -> None:
        """A job was started, and will want a processor at once."""
        self._note(self._samples[-1][1] + 1 if self._samples else 1)

    def _note(self, count: int) -> None:
        now = time.monotonic()
        self._samples.append((now, count))
        while self._samples[0][0] < now - _WINDOW:
            self._samples.popleft()


class LocalExecutor:
    """See `interface.Executor`.

    work: does a job. jobs: how many run at a time at most; 0: one for each processor, and more, up to MORE of
    them, while those that run do not want all processors.
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
        return running < self._always or self._machine.wanted() < self._cores

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


def _wanting() -> int:
    """Return how many threads run or wait for a processor or a disk now, besides the one that asks.

    Source: proc(5): the state in /proc/PID/task/TID/stat; the fourth field of /proc/loadavg.
    """
    try:
        found = [name for name in os.listdir("/proc") if name.isdigit()]
        if len(found) > _FEW:
            running = Path("/proc/loadavg").read_text(encoding="ascii").split()[3]
            return int(running.partition("/")[0]) - 1
    except OSError:
        return 0
    return sum(_wanting_threads(name) for name in found)


def _wanting_threads(process: str) -> int:
    count, ours = 0, str(threading.get_native_id())
    with contextlib.suppress(OSError):  # it has ended
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/stat", "rb") as stream:
                state = stream.read().rpartition(b") ")[2][:1]
            count += state in (b"R", b"D") and thread != ours
    return count
