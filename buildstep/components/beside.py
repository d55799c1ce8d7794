"""What goes on beside the jobs of a build, so that none of them waits for it."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from buildstep.components.inputs import Inputs
from buildstep.components.interface import Job, Result
from buildstep.components.run import Phase, Watcher
from buildstep.components.stage import Stages
from buildstep.errors import BuildstepError


@contextlib.contextmanager
def reading_ahead(inputs: Inputs, jobs: Mapping[str, Job]) -> Iterator[None]:
    """Read the files of jobs in a thread, in their order, while those before them run."""
    over = threading.Event()

    def read() -> None:
        for name in jobs:
            if over.is_set():
                return
            with contextlib.suppress(BuildstepError):  # told where the job itself comes
                inputs.own(name)

    reader = threading.Thread(target=read, name="reading-ahead", daemon=True)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()


class Tidy:
    """A watcher that removes the stage of each component whose jobs have all ended, and passes all on.

    A thread removes them: the next job need not wait for that.
    """

    def __init__(self, watcher: Watcher, stages: Stages, jobs: Mapping[str, Job]) -> None:
        self._watcher, self._stages = watcher, stages
        self._left = Counter(job.component for job in jobs.values())
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tidy")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)

    def phase(self, job: Job, phase: Phase, why: str) -> None:
        self._watcher.phase(job, phase, why)

    def still(self, names: Collection[str]) -> None:
        self._watcher.still(names)

    def ended(self, job: Job, result: Result) -> None:
        self._left[job.component] -= 1
        if not self._left[job.component]:
            self._pool.submit(self._stages.remove, job.component)
        self._watcher.ended(job, result)
