"""Workers for many tasks of one kind."""

from __future__ import annotations

import errno
import os
import signal
import time

import pytest

from buildstep.errors import EmitError, UsageError
from buildstep.system import cgroup, workers
from buildstep.system.crew import Crew
from buildstep.system.workers import WorkerLost


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("ahead", [1, 4])
def test_results_come_in_the_order_of_the_tasks(count: int, ahead: int) -> None:
    def job(task: int) -> tuple[int, bytes]:
        time.sleep(0.002 * (task % 3))
        return task * task, bytes(task * 3000)

    with Crew(job, count, ahead=ahead) as crew:
        for task in range(40):
            crew.give(task)
        assert list(crew.results()) == [(task * task, bytes(task * 3000)) for task in range(40)]
        assert list(crew.ready()) == []
        crew.give(5)
        assert [row[0] for row in crew.results()] == [25]


def test_they_are_other_processes_and_end_with_the_block() -> None:
    def job(_task: int) -> int:
        time.sleep(0.05)
        return os.getpid()

    with Crew(job, 3) as crew:
        pids = set(crew.do(range(9)))
    assert len(pids) == 3
    assert os.getpid() not in pids
    assert all(map(_gone, pids))


def test_one_worker_is_this_process() -> None:
    with Crew(lambda _task: os.getpid(), 1) as crew:
        crew.give(0)
        assert list(crew.ready()) == []
        assert list(crew.results()) == [os.getpid()]


def test_large_tasks_and_results_do_not_wait_for_each_other() -> None:
    with Crew(lambda task: task * 2, 2, ahead=4) as crew:
        for number in range(20):
            crew.give(bytes([number]) * 500_000)
        assert [len(result) for result in crew.results()] == [1_000_000] * 20


@pytest.mark.parametrize("count", [1, 3])
def test_the_first_error_is_raised_in_its_place(count: int) -> None:
    def job(task: int) -> int:
        if task in (4, 6):
            try:
                raise OSError(errno.ENOSPC, "full")
            except OSError as error:
                raise EmitError(f"number {task}", hint="do this") from error
        return task

    with Crew(job, count) as crew:
        results = crew.do(range(8))
        assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(EmitError, match="number 4") as caught:
            next(results)
    assert caught.value.hint == "do this"
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_one_that_is_killed_is_told() -> None:
    def job(task: int) -> int:
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    with Crew(job, 2) as crew, pytest.raises(WorkerLost, match="killed by SIGKILL") as caught:
        list(crew.do(range(8)))
    assert "memory" in caught.value.hint


def test_one_that_is_killed_by_a_signal_without_a_name_is_told() -> None:
    def job(_task: int) -> None:
        os.kill(os.getpid(), signal.SIGRTMIN + 3)

    with Crew(job, 2) as crew, pytest.raises(WorkerLost, match=f"killed by signal {signal.SIGRTMIN + 3}"):
        list(crew.do(range(2)))


def test_signals_for_the_build_are_not_for_them() -> None:
    def job(signum: int) -> int:
        os.kill(os.getpid(), signum)
        return signum

    with Crew(job, 2) as crew:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            crew.give(int(signum))
        assert list(crew.results()) == [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def test_they_end_with_their_parent_whatever_they_do() -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:

        def job(_task: int) -> None:
            os.write(write, b"x")
            time.sleep(60)

        try:
            with Crew(job, 2) as crew:
                crew.give(0)
                crew.give(1)
                list(crew.results())
        finally:
            os._exit(1)
    os.close(write)
    begin = time.monotonic()
    assert os.read(read, 1) == b"x"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while os.read(read, 20):  # the pipe ends when its last writer is gone
        pass
    os.close(read)
    assert time.monotonic() - begin < 30


def test_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(cgroup, "processors_here", lambda: 0)
    monkeypatch.delenv(workers.VARIABLE, raising=False)
    assert workers.count() == 8
    monkeypatch.setattr(cgroup, "processors_here", lambda: 3)
    assert workers.count() == 3
    monkeypatch.setenv(workers.VARIABLE, "5")
    assert workers.count() == 5
    for wrong in ("0", "many", "-1", "257", "1.5"):
        monkeypatch.setenv(workers.VARIABLE, wrong)
        with pytest.raises(UsageError, match="BUILDSTEP_WORKERS"):
            workers.count()
