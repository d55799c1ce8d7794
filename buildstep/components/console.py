"""What a person sees of a build of components: a live table on a terminal, else lines with the job's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Self, TextIO

from buildstep.components.interface import Job, Result, State
from buildstep.components.run import Phase
from buildstep.report.job_view import Ended, JobView, job_view
from buildstep.report.words import seconds_text
from buildstep.system.text import plural


class View:
    """Shows a build: a watcher of the scheduler, which is given the lines of jobs as well."""

    def __init__(self, view: JobView) -> None:
        self._view = view

    def __enter__(self) -> Self:
        self._view.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.__exit__(kind, error, trace)

    def phase(self, job: Job, phase: Phase, why: str) -> None:
        if phase is Phase.RUNNING:
            self._view.running(job.name, why, "building: ")
        else:
            self._view.waiting(job.name)

    def ended(self, job: Job, result: Result) -> None:
        text = {
            State.BUILT: place_of(result).strip(),
            State.BLOCKED: f"by {result.message}",
            State.FAILED: result.message.partition("\n")[0],
            State.STOPPED: result.message,
        }.get(result.state, "")
        took = result.seconds if result.state in (State.BUILT, State.FAILED) else None
        self._view.ended(job.name, Ended(str(result.state), describe(result), text, took))

    def still(self, names: Collection[str]) -> None:
        self._view.still(f"still building: {', '.join(names)}")

    def say(self, job: Job, text: str) -> None:
        """Show a line of a job; from any thread."""
        self._view.say(job.name, text)

    def placed(self, job: Job, worker: str) -> None:
        """Show on which other machine a job runs; from any thread."""
        self._view.placed(job.name, worker)

    def tell(self, text: str) -> None:
        """Show something about the build as a whole."""
        self._view.tell(text)


def view_for(stream: TextIO, *, verbose: int, quiet: bool) -> View:
    """Return the view that suits a stream: see `report.job_view`."""
    return View(job_view(stream, verbose=bool(verbose), quiet=quiet))


def describe(result: Result) -> str:
    """Say how a job ended, in a line."""
    match result.state:
        case State.BUILT:
            return f"built in {seconds_text(result.seconds)}{place_of(result)}: {result.output[:19]}"
        case State.REUSED:
            return f"reused: {result.output[:19]}"
        case State.FAILED:
            return f"FAILED after {seconds_text(result.seconds)}: {result.message.partition(chr(10))[0]}"
        case State.BLOCKED:
            return f"not built, as this failed: {result.message}"
        case _:
            return f"not built: {result.message.partition(chr(10))[0]}"


def place_of(result: Result) -> str:
    """Say on which other machine a job ran, if it was one."""
    return f" on {result.worker}" if result.worker not in ("", "local") else ""


def summary(results: Mapping[str, Result], seconds: float) -> str:
    """Say what a build came to, in a line."""
    count = Counter(result.state for result in results.values())
    if results and count[State.REUSED] == len(results):
        return f"nothing to do: the results of all {plural(len(results), 'job')} are there"
    words = [f"{count[state]} {state}" for state in State if count[state]]
    return f"{plural(len(results), 'job')} in {seconds_text(seconds)}: {', '.join(words) or 'none'}"
