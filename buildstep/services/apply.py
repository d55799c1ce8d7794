"""Execute a plan: services in their order, as many at a time as may, each action once.

Before an action begins, that is written down; so is what it said. A run that is killed is resumed: the place
is asked whether what was begun has completed, and the rest follows. A service that fails stops those that
depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from threading import Event
from typing import Any, Final

from buildstep.services.interface import ServiceError
from buildstep.services.life_cycle import Verb, in_order
from buildstep.services.plan import Phase, Plan
from buildstep.services.run_context import Fate, Result, RunContext
from buildstep.services.service_run import ServiceRun
from buildstep.system.workers import cores

FORMAT: Final = 1

AT_ONCE: Final = 4
"""Services at a time, at least: actions wait more than they compute."""

BEAT: Final = 30.0
"""Seconds after which the watcher is told which services still are at work, where none has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a run came to."""

    results: tuple[Result, ...]
    seconds: float

    @property
    def failed(self) -> list[Result]:
        return [row for row in self.results if row.fate is Fate.FAILED]

    def to_json(self) -> dict[str, Any]:
        """Return the object that a command prints; its names are stable."""
        return {
            "format": FORMAT,
            "ok": not self.failed,
            "seconds": round(self.seconds, 3),
            "services": [
                {
                    "service": row.key,
                    "verb": str(row.verb),
                    "fate": str(row.fate),
                    "state": str(row.state),
                    "message": row.message,
                    "ran": list(row.ran),
                    "failed": row.failed,
                    "log": str(row.log) if row.log else "",
                    "results": dict(row.results),
                    "seconds": round(row.seconds, 3),
                }
                for row in self.results
            ],
        }


def apply(plan: Plan, work: RunContext) -> Outcome:
    """Execute a plan; returns how it ended with each service. A service that fails raises nothing: `check`
    does. Raises what interrupts it; the actions that ran are ended then, and the next run resumes.

    Whoever calls holds the lock of the repository.
    """
    begun = time.monotonic()
    results: list[Result] = []
    for phase in plan.phases:
        bad = {row.key: row for row in results if row.fate in (Fate.FAILED, Fate.BLOCKED, Fate.STOPPED)}
        results += _Phase(phase, work, bad).run()
    return Outcome(results=tuple(results), seconds=time.monotonic() - begun)


class _Phase:
    """One verb for its services. bad: those with which it did not go well in an earlier phase."""

    def __init__(self, phase: Phase, work: RunContext, bad: Mapping[str, Result]) -> None:
        self._phase, self._work, self._bad = phase, work, bad
        self._results: dict[str, Result] = {}
        self._running: dict[Future[Result], str] = {}
        self._ready: list[str] = []
        self._stopped = Event()
        self._stopping = bool(bad) and not work.keep_going
        self._at_once = work.at_once or max(AT_ONCE, cores())
        self._heard = time.monotonic()

    def run(self) -> list[Result]:
        sorter = TopologicalSorter(self._phase.first)
        sorter.prepare()
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="service") as pool:
            try:
                while sorter.is_active():
                    self._ready += sorter.get_ready()
                    if not self._start(pool, sorter):
                        self._await(sorter)
            except BaseException:
                self._stopped.set()
                raise
        return list(self._results.values())

    def _start(self, pool: ThreadPoolExecutor, sorter: TopologicalSorter[str]) -> bool:
        """Begin with services that are ready, as many as may. Returns whether one needed nothing, which may
        have made others ready."""
        waiting, self._ready, settled = self._ready, [], False
        for key in waiting:
            if (result := self._settled(key)) is not None:
                self._end(key, result, sorter)
                settled = True
            elif len(self._running) < self._at_once:
                self._running[pool.submit(self._do, key)] = key
            else:
                self._ready.append(key)
        return settled

    def _do(self, key: str) -> Result:
        work = self._work
        return ServiceRun(work, self._phase.verb, key, self._stopped).go()

    def _settled(self, key: str) -> Result | None:
        """Return the result of a service that is not begun; None for one that is."""
        broken = sorted(
            other
            for other in self._phase.first[key]
            if self._results[other].fate in (Fate.FAILED, Fate.BLOCKED, Fate.STOPPED)
        )
        if key in self._bad:
            return self._not_begun(key, Fate.BLOCKED, self._bad[key].message)
        if broken:
            causes = {self._cause(other) for other in broken}
            return self._not_begun(key, Fate.BLOCKED, ", ".join(sorted(causes)))
        if self._stopping:
            return self._not_begun(key, Fate.STOPPED, "another service failed")
        if key in self._phase.left:
            return self._not_begun(key, Fate.LEFT, self._phase.left[key])
        return None

    def _cause(self, key: str) -> str:
        result = self._results[key]
        return result.message if result.fate is Fate.BLOCKED else key

    def _not_begun(self, key: str, fate: Fate, message: str) -> Result:
        state = self._work.book.load(key).state
        return Result(key=key, verb=self._phase.verb, fate=fate, state=state, message=message)

    def _await(self, sorter: TopologicalSorter[str]) -> None:
        if not self._running:
            return
        done, _ = wait(self._running, timeout=BEAT, return_when=FIRST_COMPLETED)
        for future in done:
            key = self._running.pop(future)
            result = future.result()
            if result.fate is not Fate.DONE and result.fate is not Fate.UNCHANGED:
                self._stopping = self._stopping or not self._work.keep_going
            self._end(key, result, sorter)
        now = time.monotonic()
        if done:
            self._heard = now
        elif now - self._heard >= BEAT:
            self._heard = now
            self._work.watcher.still(sorted(self._running.values()))

    def _end(self, key: str, result: Result, sorter: TopologicalSorter[str]) -> None:
        self._results[key] = result
        sorter.done(key)
        self._work.watcher.ended(key, result)


def check(outcome: Outcome) -> None:
    """Raise ServiceError if a service failed, with what each said, its last lines and its log."""
    failed = outcome.failed
    if not failed:
        return
    lines = []
    for row in failed:
        lines.append(f"  {row.key}: {row.message}")
        lines += [f"    {line}" for line in row.tail]
        if row.log is not None:
            lines.append(f"    all of its output: {row.log}")
    left = {row.key for row in outcome.results if row.fate in (Fate.BLOCKED, Fate.STOPPED)}
    if left:
        lines.append(f"  not done for that: {', '.join(sorted(left))}")
    keys = sorted({row.key for row in failed})
    noun = "service" if len(keys) == 1 else "services"
    raise ServiceError(
        f"{len(keys)} {noun} failed: {', '.join(keys)}",
        detail="\n".join(lines),
        hint=_hint({row.verb for row in failed}),
    )


def _hint(verbs: Collection[Verb]) -> str:
    """Return what to do after a failure."""
    if any(map(in_order, verbs)):
        return "what was done is kept; the same command goes on from there"
    return "`buildstep service monitor --restart` brings it up again" if Verb.MONITOR in verbs else ""
