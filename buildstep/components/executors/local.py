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
from typing import Final

from buildstep.components.engine import Dispatch, Orders, Work
from buildstep.components.interface import Job, Result
from buildstep.components.stage import free_bytes
from buildstep.errors import Fault
from buildstep.system.workers import cores

JOB_MEMORY: Final = 512 << 20
"""Bytes of memory that must be free for one more job to begin beside others."""

JOB_DISK: Final = 1 << 30
"""Bytes of disk that must be free for the same."""

MORE: Final = 4
"""Jobs for each processor, at most: while fewer of their processes want a processor than there are."""

_WINDOW: Final = 0.03
"""Seconds for which a processor must have been free for one more job than there are processors."""

_LOOK: Final = 0.01
"""Seconds between two looks at whether a processor is free for a job that waits for its turn."""

_SHARE: Final = 20
"""How many times as long as a look itself takes it is put off, where there is much to look at."""

_FEW: Final = 64
"""Processes that are looked at one by one; where there are more of them, they are not all of this build."""


_WANTS: Final = (b"R", b"D")
"""States of threads that run, or would if they could."""


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
    them, while those that run do not want all processors. One job more is prepared then, and waits for its
    turn, so that no processor waits for the next one to be staged.
    """

    def __init__(self, work: Work, machine: Machine, *, jobs: int = 0) -> None:
        self._work, self._machine = work, machine
        self._cores = cores()
        self._most = jobs or MORE * self._cores
        self._always = jobs or self._cores
        self._stopped = threading.Event()
        self._running = self._working = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="job")

    @property
    def at_once(self) -> int:
        """As many jobs as run now, or one more where there is room for it. One can always run."""
        with self._lock:
            running, waiting = self._running, self._running - self._working
        return running + 1 if self._has_room(running, waiting) else running

    def _has_room(self, running: int, waiting: int) -> bool:
        if not running:
            return True
        if running >= self._most:
            return False
        memory = self._machine.memory()
        if memory is not None and memory < JOB_MEMORY:
            return False
        if self._machine.disk() < JOB_DISK:
            return False
        return running < self._always or not waiting

    def submit(self, job: Job, outputs: Mapping[str, str]) -> Future[Result]:
        with self._lock:
            self._running += 1
        return self._pool.submit(self._do, job, outputs)

    def _do(self, job: Job, outputs: Mapping[str, str]) -> Result:
        turns: list[float] = []

        def turn() -> float:
            if not turns:
                turns.append(self._turn())
            return turns[0]

        try:
            return self._work(job, outputs, self._stopped, turn)
        finally:
            with self._lock:
                self._running -= 1
                self._working -= len(turns)

    def _turn(self) -> float:
        """Wait until a processor is free for one more job, or all jobs have to end."""
        began = time.monotonic()
        while True:
            looked = time.monotonic()
            with self._lock:
                free = self._working < self._always or self._machine.wanted() < self._cores
                if free or self._stopped.is_set():
                    self._working += 1
                    self._machine.started()
                    return time.monotonic() - began
            self._stopped.wait(max(_LOOK, _SHARE * (time.monotonic() - looked)))

    def stop(self) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


class Local:
    """See `engine.Engine`."""

    far = False

    def faults(self, orders: Orders) -> list[Fault]:
        hint = "another --executor knows it; --worker-label is for those on other machines"
        return [
            Fault(
                where=f"$.executors.local.{name}",
                message="is not known: the executor local has no options",
                hint=hint if name == "labels" else "",
            )
            for name in orders.options
        ]

    def start(self, orders: Orders, work: Work, dispatch: Dispatch | None) -> LocalExecutor:
        del dispatch
        return LocalExecutor(work, Machine(orders.state), jobs=orders.at_once)


LOCAL: Final = Local()


def _wanting() -> int:
    """Return how many threads of other processes run or wait for a processor or a disk now.

    Source: proc(5): the state, and the number of threads, in /proc/PID/stat; the same of a thread in
    /proc/PID/task/TID/stat; the fourth field of /proc/loadavg.
    """
    ours = str(os.getpid())
    try:
        found = [name for name in os.listdir("/proc") if name.isdigit() and name != ours]
        if len(found) > _FEW:
            running = Path("/proc/loadavg").read_text(encoding="ascii").split()[3]
            return int(running.partition("/")[0]) - 1
    except OSError:
        return 0
    return sum(_wanting_threads(name) for name in found)


def _wanting_threads(process: str) -> int:
    count = 0
    with contextlib.suppress(OSError):  # it has ended
        state, *fields = _fields(f"/proc/{process}/stat")
        if fields[16] == b"1":
            return int(state in _WANTS)
        for thread in os.listdir(f"/proc/{process}/task"):
            count += _fields(f"/proc/{process}/task/{thread}/stat")[0] in _WANTS
    return count


def _fields(path: str) -> list[bytes]:
    """Return the fields of a stat file from the state on; the name before it can hold anything."""
    with open(path, "rb", buffering=0) as stream:
        return stream.read().rpartition(b") ")[2].split()
