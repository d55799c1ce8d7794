"""The scheduler: order, reuse, early cutoff, failures, and what is known after each."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from buildstep.components import run as running
from buildstep.components.engine import Work
from buildstep.components.executors import local
from buildstep.components.executors.local import MORE, LocalExecutor, Machine
from buildstep.components.interface import Action, Built, Job, Result, State
from buildstep.components.records import Records
from buildstep.components.run import Failed, Key, Phase, Rules, Scheduler, check, why
from buildstep.errors import ExitCode, Interrupted
from buildstep.system.workers import cores

EDGES = {
    "base": (), "tool": (), "mid": ("base", "tool"), "other": ("base",), "top": ("mid",), "end": ("top",),
}  # fmt: skip


def graph(edges: Mapping[str, tuple[str, ...]] = EDGES) -> dict[str, Job]:
    return {
        name: Job(name=name, action=Action.IMAGE, component=name, needs=needs)
        for name, needs in edges.items()
    }


@dataclass
class Fake:
    """An executor that does one job after the other, in the order in which they were given to it.

    sources: the content of each job; its output is made from that, and comments (`#...`) leave no trace.
    """

    sources: dict[str, str]
    fails: set[str] = field(default_factory=set)
    at_once: int = 2
    ran: list[str] = field(default_factory=list)
    ended: bool = False

    def submit(self, job: Job, outputs: Mapping[str, str]) -> Future[Result]:
        assert set(job.needs) <= outputs.keys()
        self.ran.append(job.name)
        state = State.FAILED if job.name in self.fails else State.BUILT
        output = f"{job.name}({self.sources[job.name].partition('#')[0]})"
        future: Future[Result] = Future()
        future.set_result(Result(job=job.name, state=state, output=output, message="broke", seconds=1.0))
        return future

    def stop(self) -> None:
        self.ended = True


class Seen:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.why: dict[str, str] = {}
        self.beats: list[list[str]] = []

    def phase(self, job: Job, phase: Phase, why: str) -> None:
        if phase is Phase.RUNNING:
            self.why[job.name] = why

    def ended(self, job: Job, result: Result) -> None:
        assert result.job == job.name

    def still(self, names: Collection[str]) -> None:
        self.beats.append(sorted(names))


class Rig:
    """Sources, records, and runs over them."""

    def __init__(self, state: Path) -> None:
        self.sources = dict.fromkeys(EDGES, "1")
        self.records = Records(state)
        self.seen = Seen()

    def key_of(self, job: Job, outputs: Mapping[str, str]) -> Key:
        inputs = {
            "file:source": self.sources[job.name],
            **{f"need:{name}": outputs[name] for name in job.needs},
        }
        return Key(repr(sorted(inputs.items())), inputs)

    def run(self, rules: Rules = Rules(), **executor: object) -> tuple[dict[str, State], list[str]]:  # noqa: B008
        fake = Fake(self.sources, **executor)  # type: ignore[arg-type]
        self.seen = Seen()
        self.results = Scheduler(graph(), fake, self.records, self.key_of, self.seen, rules=rules).run()
        return {name: result.state for name, result in self.results.items()}, fake.ran


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_jobs_come_after_what_they_need_and_the_longest_way_goes_first(rig: Rig) -> None:
    states, ran = rig.run()
    assert set(states.values()) == {State.BUILT}
    assert ran == ["base", "tool", "mid", "other", "top", "end"]
    assert rig.seen.why["base"] == "never built"


def test_d06_a_second_run_does_nothing(rig: Rig) -> None:
    rig.run()
    states, ran = rig.run()
    assert (set(states.values()), ran) == ({State.REUSED}, [])


def test_d06_a_change_that_leaves_the_output_alone_stops_there(rig: Rig) -> None:
    rig.run()
    rig.sources["base"] = "1# a comment"
    states, ran = rig.run()
    assert ran == ["base"]
    assert states["mid"] is State.REUSED
    assert rig.seen.why == {"base": "source changed"}
    rig.sources["base"] = "2"
    assert rig.run()[1] == ["base", "mid", "other"]
    assert rig.seen.why["mid"] == "base gave another result"


def test_a_failure_names_itself_and_what_it_blocks(rig: Rig) -> None:
    states, ran = rig.run(Rules(keep_going=True), fails={"tool"})
    assert states == {
        "base": State.BUILT, "tool": State.FAILED, "mid": State.BLOCKED, "other": State.BUILT,
        "top": State.BLOCKED, "end": State.BLOCKED,
    }  # fmt: skip
    assert rig.results["end"].message == "tool"
    with pytest.raises(Failed, match="1 job failed: tool") as caught:
        check(rig.results)
    assert "tool: broke" in caught.value.detail
    assert "not built for that: end, mid, top" in caught.value.detail
    assert caught.value.exit_code is ExitCode.GRAPH
    states, ran = rig.run()
    assert ran == ["tool", "mid", "top", "end"]


def test_d05_without_keep_going_nothing_new_is_started_after_a_failure(rig: Rig) -> None:
    states, ran = rig.run(fails={"tool"})
    assert ran == ["base", "tool"]
    assert (states["base"], states["other"], states["mid"]) == (State.BUILT, State.STOPPED, State.BLOCKED)


def test_what_was_finished_before_an_interruption_is_known(rig: Rig) -> None:
    class Cut(Fake):
        def submit(self, job: Job, outputs: Mapping[str, str]) -> Future[Result]:
            if job.name == "mid":
                raise Interrupted(15, "SIGTERM")
            return super().submit(job, outputs)

    cut = Cut(rig.sources)
    with pytest.raises(Interrupted):
        Scheduler(graph(), cut, rig.records, rig.key_of, rig.seen).run()
    assert cut.ended
    assert rig.run()[1] == ["mid", "other", "top", "end"]


def test_a_job_that_is_asked_for_is_built_again(rig: Rig) -> None:
    rig.run()
    assert rig.run(Rules(again={"base"}))[1] == ["base"]
    assert rig.seen.why == {"base": "asked for"}


def test_jobs_that_take_long_are_told_now_and_then(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Fake):
        def submit(self, job: Job, outputs: Mapping[str, str]) -> Future[Result]:
            given = super().submit(job, outputs).result()
            future: Future[Result] = Future()
            threading.Timer(0.05 if job.name == "end" else 0, future.set_result, [given]).start()
            return future

    monkeypatch.setattr(running, "BEAT", 0.02)
    Scheduler(graph(), Slow(rig.sources), rig.records, rig.key_of, rig.seen).run()
    assert ["end"] in rig.seen.beats


def test_why_says_what_differs() -> None:
    last = Built(job="a", key="1", output="o", inputs={"file:x": "1", "file:y": "1"})
    assert why(last, Key("2", {"file:x": "2", "file:w": "1"})) == "w is new, x changed, y is gone"
    assert why(last, Key("1", last.inputs)) == "its result is gone"


# -- the local executor ---------------------------------------------------------------------------------------


class Given(Machine):
    """A machine with what a test says."""

    def __init__(self) -> None:
        self.free_memory: int | None = 8 << 30
        self.free_disk = 100 << 30
        self.wanted_cores = cores()

    def memory(self) -> int | None:
        return self.free_memory

    def disk(self) -> int:
        return self.free_disk

    def wanted(self) -> int:
        return self.wanted_cores

    def started(self) -> None:
        pass


def holding(gate: threading.Event) -> Work:
    def work(
        job: Job, outputs: Mapping[str, str], stopped: threading.Event, turn: Callable[[], float]
    ) -> Result:
        turn()
        while not gate.is_set() and not stopped.is_set():
            time.sleep(0.005)
        return Result(job=job.name, state=State.STOPPED if stopped.is_set() else State.BUILT)

    return work


def test_d05_as_many_jobs_run_as_processors_memory_and_disk_have_room_for() -> None:
    gate, machine = threading.Event(), Given()
    executor = LocalExecutor(holding(gate), machine)
    job = graph()["base"]
    try:
        for number in range(cores()):
            assert executor.at_once == number + 1
            executor.submit(job, {})
        until(lambda: executor.at_once == cores() + 1)  # one more can be prepared
        executor.submit(job, {})
        time.sleep(0.03)
        assert executor.at_once == cores() + 1  # all processors have a job, and are wanted by it
        machine.wanted_cores = cores() - 1
        until(lambda: executor.at_once == cores() + 2)  # it has its turn
        machine.free_memory = 1 << 20
        assert executor.at_once == cores() + 1
        machine.free_memory, machine.free_disk = None, 1 << 20
        assert executor.at_once == cores() + 1
        machine.free_disk = 100 << 30
        for _ in range(MORE * cores() - cores() - 1):
            executor.submit(job, {})
        assert executor.at_once == MORE * cores()
    finally:
        gate.set()
        executor.stop()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_job_that_waits_for_its_turn_has_not_begun_and_ends_when_all_have_to() -> None:
    waits: list[float] = []
    gate = threading.Event()

    def work(
        job: Job, outputs: Mapping[str, str], stopped: threading.Event, turn: Callable[[], float]
    ) -> Result:
        waits.append(turn())
        return holding(gate)(job, outputs, stopped, turn)

    executor = LocalExecutor(work, Given())
    job = graph()["base"]
    futures = [executor.submit(job, {}) for _ in range(cores() + 1)]
    until(lambda: len(waits) == cores())
    time.sleep(0.05)
    assert len(waits) == cores()
    executor.stop()
    assert {future.result().state for future in futures} == {State.STOPPED}
    assert max(waits) >= 0.04


def test_one_job_runs_whatever_is_free_and_a_number_of_jobs_is_kept() -> None:
    gate, machine = threading.Event(), Given()
    machine.free_memory, machine.free_disk, machine.wanted_cores = 0, 0, 0
    executor = LocalExecutor(holding(gate), machine, jobs=1)
    assert executor.at_once == 1
    future = executor.submit(graph()["base"], {})
    machine.free_memory, machine.free_disk = 8 << 30, 100 << 30
    assert executor.at_once == 1
    executor.stop()
    assert future.result().state is State.STOPPED


def test_the_machine_tells_what_is_free(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "not-there")
    assert machine.disk() > 0
    memory = machine.memory()
    assert memory is None or memory > 1 << 20


@pytest.mark.commands("sleep", "python", "python3", os.path.basename(sys.executable))
def test_a_thread_that_computes_wants_a_processor_and_one_that_waits_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    waiting = subprocess.Popen(["sleep", "60"])
    try:
        end = time.monotonic() + 5
        while not local._wanting_threads(str(child.pid)) and time.monotonic() < end:
            time.sleep(0.01)
        assert local._wanting_threads(str(child.pid)) == 1
        while local._wanting_threads(str(waiting.pid)) and time.monotonic() < end:
            time.sleep(0.01)
        assert local._wanting_threads(str(waiting.pid)) == 0
    finally:
        for process in (child, waiting):
            process.kill()
            process.wait()
    assert local._wanting_threads(str(child.pid)) == 0
    counts = iter([2, 0, 0, 0])
    monkeypatch.setattr(local, "_wanting", lambda: next(counts))
    monkeypatch.setattr(local, "_WINDOW", 0.05)
    machine = Machine(Path("/"))
    assert [machine.wanted(), machine.wanted()] == [2, 2]  # it was wanted a moment ago
    time.sleep(0.06)
    assert machine.wanted() == 0
    machine.started()
    assert machine.wanted() == 1  # the new job is not there yet
