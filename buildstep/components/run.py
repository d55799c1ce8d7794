"""The scheduler: jobs of a graph in their order, each as soon as what it needs is done.

`graphlib` gives what is ready; of that the jobs with the longest way to the end go first. Whether a job has
to run is decided when it is ready, by the outputs that its needs really have: where they came out as they
were, the wave of a change ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from enum import StrEnum
from graphlib import TopologicalSorter
from typing import Final, NamedTuple, Protocol

from buildstep.components.inputs import differences, elsewhere, summary, why_reused
from buildstep.components.interface import Built, Executor, History, Job, Result, State
from buildstep.errors import BuildstepError, ExitCode

POLL: Final = 0.03
"""Seconds between two looks at whether the machine has room for one more job."""

BEAT: Final = 30.0
"""Seconds after which the watcher is told which jobs still run, where none has ended."""

UNKNOWN_SECONDS: Final = 1.0
"""What a job is taken to need that was never built."""


class Key(NamedTuple):
    """What went into a job: the digest of it all, and its parts by name."""

    key: str
    inputs: Mapping[str, str]


KeyOf = Callable[[Job, Mapping[str, str]], Key]
"""Returns the key of a job, given the outputs of all jobs that are done."""


class Book(History, Protocol):
    """What was built, and takes what is built now."""

    def add(self, built: Built) -> None: ...


class Phase(StrEnum):
    """What is known of a job while it has not ended."""

    WAITING = "waiting"
    RUNNING = "running"


class Watcher(Protocol):
    """Is told of the jobs, from the thread of the scheduler."""

    def phase(self, job: Job, phase: Phase, why: str) -> None:
        """A job has come to a phase. why: why it is built and not reused."""
        ...

    def ended(self, job: Job, result: Result) -> None:
        """A job has ended."""
        ...

    def still(self, names: Collection[str]) -> None:
        """These jobs run, and none has ended for a while."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How a run goes on. keep_going: after a failure, with all that does not depend on it; again: jobs that
    are built even if their result is known."""

    keep_going: bool = False
    again: Collection[str] = ()


class Scheduler:
    """One run of a graph. jobs: those that may run, by name; needs on others are taken as met.

    outputs: of needs that are no part of the run.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job],
        executor: Executor,
        book: Book,
        key_of: KeyOf,
        watcher: Watcher,
        *,
        rules: Rules = Rules(),
        outputs: Mapping[str, str] | None = None,
    ) -> None:
        self._jobs, self._executor, self._book, self._key_of = jobs, executor, book, key_of
        self._watcher, self._rules = watcher, rules
        self.results: dict[str, Result] = {}
        self.outputs: dict[str, str] = dict(outputs or {})
        self._ready: list[str] = []
        self._keys: dict[str, Key] = {}
        self._reasons: dict[str, str] = {}
        self._running: dict[Future[Result], str] = {}
        self._stopping = False
        self._heard = time.monotonic()
        self._sorter = TopologicalSorter(
            {name: [need for need in job.needs if need in jobs] for name, job in jobs.items()}
        )

    def run(self) -> dict[str, Result]:
        """Run all jobs and return how each ended, by name.

        A job that fails is no error here. Raises what interrupts it, and failures of the executor itself; the
        jobs that ran are ended then, and what was finished is written down.
        """
        self._sorter.prepare()
        self._order = _ways_to_the_end(self._jobs, self._book)
        for job in self._jobs.values():
            self._watcher.phase(job, Phase.WAITING, "")
        try:
            while self._sorter.is_active():
                self._take_ready()
                self._start()
                if self._running:
                    self._await()
        except BaseException:
            self._executor.stop()
            for future, name in list(self._running.items()):
                if future.done() and not future.cancelled() and future.exception() is None:
                    self._collect(name, future)
            raise
        return self.results

    def _await(self) -> None:
        """Wait for a job to end, or for a moment where another one could begin."""
        timeout = POLL if self._ready else BEAT
        done, _ = wait(self._running, timeout=timeout, return_when=FIRST_COMPLETED)
        for future in done:
            self._collect(self._running.pop(future), future)
        now = time.monotonic()
        if done:
            self._heard = now
        elif now - self._heard >= BEAT:
            self._heard = now
            self._watcher.still(sorted(self._running.values()))

    def _take_ready(self) -> None:
        """Take the jobs that are ready now; those that need not run are done, which makes others ready."""
        while new := self._sorter.get_ready():
            for name in sorted(new, key=self._rank):
                if (settled := self._settled(self._jobs[name])) is not None:
                    self._end(name, settled)
                else:
                    self._ready.append(name)
                    self._ready.sort(key=self._rank)
                    self._start()  # reading the files of the next one may take a while

    def _rank(self, name: str) -> tuple[float, str]:
        """Return what sorts jobs: those with the longest way to the end first."""
        return -self._order[name], name

    def _settled(self, job: Job) -> Result | None:
        """Return the result of a job that does not run; None for one that does."""
        blocked = [need for need in job.needs if need in self.results and not _is_good(self.results[need])]
        if blocked:
            return Result(job=job.name, state=State.BLOCKED, message=self._blocked_by(blocked))
        if self._stopping:
            return Result(job=job.name, state=State.STOPPED, message="another job failed")
        key = self._keys[job.name] = self._key_of(job, self.outputs)
        if job.name in self._rules.again:
            return None
        built = self._book.find(job.name, key.key)
        if built is None:
            return None
        return Result(
            job=job.name,
            state=State.REUSED,
            output=built.output,
            why=why_reused(self._book.last(job.name), key.key),
            message=f"built in {built.seconds:.1f} s before",
        )

    def _blocked_by(self, needs: Collection[str]) -> str:
        """Name the jobs that failed, also where a need was itself blocked."""
        causes: set[str] = set()
        for need in needs:
            result = self.results[need]
            causes.update(result.message.split(", ") if result.state is State.BLOCKED else [need])
        return ", ".join(sorted(causes))

    def _start(self) -> None:
        """Start ready jobs, as many as the executor takes now; after a failure, unless it goes on, none."""
        if self._stopping:
            while self._ready:
                name = self._ready.pop(0)
                self._end(name, Result(job=name, state=State.STOPPED, message="another job failed"))
        while self._ready and len(self._running) < self._executor.at_once:
            job = self._jobs[self._ready.pop(0)]
            self._reasons[job.name] = self._why(job)
            self._watcher.phase(job, Phase.RUNNING, self._reasons[job.name])
            self._running[self._executor.submit(job, dict(self.outputs))] = job.name

    def _why(self, job: Job) -> str:
        if job.name in self._rules.again:
            return "asked for"
        return why(self._book.last(job.name), self._keys[job.name])

    def _collect(self, name: str, future: Future[Result]) -> None:
        result = future.result()
        if result.state is State.BUILT:
            key = self._keys[name]
            self._book.add(
                Built(
                    job=name,
                    key=key.key,
                    output=result.output,
                    inputs=dict(key.inputs),
                    seconds=round(result.seconds, 3),
                    ended=time.time(),
                    worker=result.worker,
                )
            )
        elif not self._rules.keep_going:
            self._stopping = True
        self._end(name, replace(result, why=self._reasons[name]))

    def _end(self, name: str, result: Result) -> None:
        self.results[name] = result
        if _is_good(result):
            self.outputs[name] = result.output
        self._sorter.done(name)
        self._watcher.ended(self._jobs[name], result)


def _is_good(result: Result) -> bool:
    return result.state in (State.BUILT, State.REUSED)


def why(last: Built | None, key: Key) -> str:
    """Say why a job is not reused, in a few words."""
    if last is None:
        return "never built"
    return summary(differences(last.inputs, key.inputs)) or elsewhere(last) or "its result is gone"


def _ways_to_the_end(jobs: Mapping[str, Job], history: History) -> dict[str, float]:
    """Return for each job the seconds of the longest chain that begins with it, as far as they are known."""
    seconds = {}
    for name in jobs:
        last = history.last(name)
        seconds[name] = UNKNOWN_SECONDS if last is None else max(last.seconds, 0.01)
    found = dict(seconds)
    needs = {name: [need for need in job.needs if need in jobs] for name, job in jobs.items()}
    for name in reversed(list(TopologicalSorter(needs).static_order())):
        for need in needs[name]:
            found[need] = max(found[need], seconds[need] + found[name])
    return found


class Failed(BuildstepError):
    """Jobs of a run failed; what did not depend on them is built."""

    exit_code = ExitCode.GRAPH


def check(results: Mapping[str, Result]) -> None:
    """Raise Failed if a job did, with what each said, and what was not built for it."""
    failed = [result for result in results.values() if result.state is State.FAILED]
    if not failed:
        return
    lines = []
    for result in sorted(failed, key=lambda result: result.started):
        first, *rest = result.message.splitlines() or [""]
        lines += [f"  {result.job}: {first}", *(f"    {line}" for line in rest[-10:])]
        if result.log is not None:
            lines.append(f"    all of its output: {result.log}")
    left = [r for r in results.values() if r.state in (State.BLOCKED, State.STOPPED)]
    if left:
        lines.append(f"  not built for that: {', '.join(sorted(r.job for r in left))}")
    noun = "job" if len(failed) == 1 else "jobs"
    raise Failed(
        f"{len(failed)} {noun} failed: {', '.join(sorted(r.job for r in failed))}",
        detail="\n".join(lines),
        hint="what was built is kept; the same command goes on from there",
    )
