"""Fetch many assets at once: worker processes unpack them, and what is complete gets its name in batches.

What Python does for an asset takes one core in one process, so there is a worker for each core, with threads
for what waits for the network. Each worker opens the store anew: connections cannot be shared by a fork.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from buildstep.assets.install import InstallDir
from buildstep.assets.interface import Asset, AssetStore
from buildstep.assets.policy import Policy, Staged
from buildstep.assets.stage import stage
from buildstep.errors import BuildstepError
from buildstep.report.progress import Advance
from buildstep.system import space
from buildstep.system.remove import remove_tree
from buildstep.system.workers import Send, WorkerLost, cores, running

Failure = BuildstepError | OSError

_LARGE: Final = 1 << 20
_PART: Final = 60
"""Of all bytes, the part that a worker has under way in large assets, unless it is only one: what is half
there is lost when a pull is killed. Unpacking one keeps a core busy."""

_MOST_WORKERS: Final = 4
_MOST_THREADS: Final = 8
_BATCH: Final = 0.25
"""Seconds that a complete asset waits for others, which get durable with it."""


class Job(NamedTuple):
    """An asset to fetch. number: names its directory in the staging directory; place: where it will be."""

    number: int
    asset: Asset
    place: Path


class _Outcome(NamedTuple):
    """What became of a job."""

    number: int
    staged: Staged | None
    error: Failure | None = None


Opener = Callable[[], AssetStore]
"""Opens the store: once in the process that pulls, and once in each worker."""


def fetch(
    install: InstallDir, assets: Sequence[Asset], opener: Opener, policy: Policy, advance: Advance
) -> Iterator[tuple[Asset, Failure | None]]:
    """Install assets, and yield each, in no order, with the error that kept it from it, None for none.

    advance: is told of each that is done.
    """
    jobs = [
        Job(number, asset, install.place(asset.name.service, asset.name.version))
        for number, asset in enumerate(assets)
    ]
    total = sum(asset.size for asset in assets)
    waiting = {job.number: job.asset for job in jobs}
    run = install.begin()
    shares = _shares(jobs, min(cores(), _MOST_WORKERS, len(jobs)))

    def work(share: Sequence[Job], send: Send) -> None:
        store = opener()
        threads = max(2, min(_MOST_THREADS, -(-store.at_once // len(shares))))
        _Worker(store, run, policy, send, total // _PART).run(share, threads)

    with _Publisher(install) as publisher:
        try:
            with running(shares, work) as outcomes:
                for number, staged, error in outcomes:
                    asset = waiting.pop(number)
                    advance(1, asset.size)
                    if staged is not None:
                        publisher.put(staged)
                    else:
                        yield asset, error
        except WorkerLost as error:
            for asset in waiting.values():
                yield asset, error
    yield from publisher.results


def _shares(jobs: Sequence[Job], count: int) -> list[list[Job]]:
    """Part jobs into shares of about the same size, the largest first in each."""
    shares: list[list[Job]] = [[] for _ in range(count)]
    sizes = [0] * count
    for job in sorted(jobs, key=lambda job: job.asset.size, reverse=True):
        least = sizes.index(min(sizes))
        shares[least].append(job)
        sizes[least] += job.asset.size + _OF_A_CALL
    return shares


_OF_A_CALL = 100_000
"""Bytes that are fetched and unpacked in the time that a call takes by itself."""


class _Worker:
    """Fetches a share of the assets, in threads. room: bytes of large assets that may be under way."""

    def __init__(self, store: AssetStore, run: Path, policy: Policy, send: Send, room: int) -> None:
        self._store = store
        self._run = run
        self._policy = policy
        self._send = send
        self._room = room
        self._changed = threading.Condition()
        self._large: deque[Job] = deque()
        self._small: deque[Job] = deque()
        self._large_now = 0
        self._full: Failure | None = None
        self._bug: BaseException | None = None

    def run(self, share: Sequence[Job], threads: int) -> None:
        for job in share:
            (self._large if job.asset.size >= _LARGE else self._small).append(job)
        crew = [threading.Thread(target=self._go_on) for _ in range(min(threads, len(share)))]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        if self._bug is not None:
            raise self._bug

    def _go_on(self) -> None:
        try:
            while (job := self._next()) is not None:
                outcome = self._one(job)
                with self._changed:
                    self._send(outcome)
                    if job.asset.size >= _LARGE:
                        self._large_now -= job.asset.size
                        self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again by the worker's first thread
            with self._changed:
                self._bug = error
                self._large.clear()
                self._small.clear()
                self._changed.notify_all()

    def _next(self) -> Job | None:
        """Wait for the next job of this thread, and return it; None if there is none."""
        with self._changed:
            while True:
                if self._large:
                    size = self._large[0].asset.size
                    if not self._large_now or self._large_now + size <= self._room:
                        self._large_now += size
                        return self._large.popleft()
                if self._small:
                    return self._small.popleft()
                if not self._large:
                    return None
                self._changed.wait()

    def _one(self, job: Job) -> _Outcome:
        if self._full is not None:
            return _Outcome(job.number, None, self._full)
        target = self._run / str(job.number)
        try:
            with self._store.open(job.asset.name) as incoming:
                return _Outcome(job.number, stage(incoming, job.asset, target, job.place, self._policy))
        except (BuildstepError, OSError) as error:
            failure = space.explain(error) or error
            with contextlib.suppress(BuildstepError):
                remove_tree(target)
            if space.cause_of(error) is not None:
                self._full = failure  # there is no sense in fetching more
            return _Outcome(job.number, None, failure)


class _Publisher:
    """Gives names to what is staged, in a thread, in batches. results: what became of each."""

    def __init__(self, install: InstallDir) -> None:
        self._install = install
        self._queue: queue.SimpleQueue[Staged | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="publish", daemon=True)
        self._given_up = False
        self._bug: BaseException | None = None
        self.results: list[tuple[Asset, Failure | None]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a signal nobody waits for a disk: what is staged is found by the next pull.
        self._given_up = error is not None
        self._ending.set()
        self._queue.put(None)
        self._thread.join()
        if self._bug is not None:
            raise self._bug

    def put(self, staged: Staged) -> None:
        self._queue.put(staged)

    def _go_on(self) -> None:
        try:
            while (first := self._queue.get()) is not None:
                self._ending.wait(_BATCH)
                batch, last = self._batch(first)
                if self._given_up:
                    return
                errors = self._install.publish(batch)
                self.results += [(item.asset, error) for item, error in zip(batch, errors, strict=True)]
                if last:
                    return
        except BaseException as error:  # noqa: BLE001 - raised again where the block ends
            self._bug = error

    def _batch(self, first: Staged) -> tuple[list[Staged], bool]:
        """Return what waits by now, and whether it is the last."""
        batch = [first]
        with contextlib.suppress(queue.Empty):
            while (item := self._queue.get_nowait()) is not None:
                batch.append(item)
            return batch, True
        return batch, False
