"""Running plans: order, answers, failures, and the records that are left."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.services import service_run
from buildstep.services.apply import Outcome, apply, check
from buildstep.services.interface import Action, Answer, Call, Done, ServiceError, Side
from buildstep.services.interface import Outcome as Said
from buildstep.services.life_cycle import Verb
from buildstep.services.plan import Wish
from buildstep.services.run_context import Fate, RunContext
from buildstep.services.states import State
from tests.unit.services.in_memory import MemoryWorld, Seen, plan_of, work_of

A, B, C = "a!main", "b!main", "c!main"


@pytest.fixture
def world(tmp_path: Path) -> MemoryWorld:
    found = MemoryWorld(tmp_path)
    found.add(A)
    found.add(B, [A])
    found.add(C)
    return found


def run(work: RunContext, *verbs: Verb, names: tuple[str, ...] = (), **how: Any) -> Outcome:
    return apply(plan_of(Wish(verbs=verbs, names=names, **how), work), work)


def fails(key: str, action: Action, answer: Answer = Answer.FAILED, message: str = "") -> Any:
    def say(call: Call) -> Said | None:
        if call.facts.key == key and call.action is action:
            return Said(answer=answer, message=message)
        return None

    return say


def test_what_fails_stops_what_needs_it_and_the_others_go_on(world: MemoryWorld) -> None:
    world.node.say = fails(A, Action.PREPARE, message="no such package: rediss")
    work = work_of(world, keep_going=True)
    outcome = run(work, Verb.INSTALL)
    fates = {row.key: (row.fate, row.state) for row in outcome.results}
    assert fates == {
        A: (Fate.FAILED, State.INSTALLED), B: (Fate.BLOCKED, State.NEW), C: (Fate.DONE, State.UP),
    }  # fmt: skip
    with pytest.raises(ServiceError, match="1 service failed: a!main") as caught:
        check(outcome)
    assert caught.value.code == 23
    assert "a!main: prepare failed: no such package: rediss" in caught.value.detail
    assert "not done for that: b!main" in caught.value.detail
    assert str(world.top / A / "log/node.prepare.1.log") in caught.value.detail
    record = work.book.load(A)
    assert (record.failed, record.underway) == ("node.prepare", None)


def test_without_keep_going_nothing_more_is_begun(world: MemoryWorld) -> None:
    world.node.say = fails(A, Action.PREPARE)
    outcome = run(work_of(world, at_once=1), Verb.INSTALL)
    assert {row.key: row.fate for row in outcome.results} == {
        A: Fate.FAILED, B: Fate.BLOCKED, C: Fate.STOPPED,
    }  # fmt: skip


def test_what_failed_is_done_once_more_and_what_was_done_is_not(world: MemoryWorld) -> None:
    world.node.say = fails(A, Action.CONFIGURE)
    work = work_of(world)
    run(work, Verb.INSTALL, names=(A,))
    world.node.ran.clear()
    world.node.say = lambda _call: None
    run(work, Verb.INSTALL, names=(A,))
    assert world.node.ran == [
        f"{A} node.{name}" for name in ("check_requirements", "configure", "start", "check_up", "monitor")
    ]
    assert work.book.load(A).failed == ""


@pytest.mark.parametrize(
    ("answer", "restarts"),
    [(Answer.OK, True), (Answer.RESTART, True), (Answer.NO_RESTART, False)],
)
def test_configure_says_whether_a_restart_is_needed(
    world: MemoryWorld, answer: Answer, restarts: bool
) -> None:
    work = work_of(world)
    run(work, Verb.INSTALL, names=(A,))
    world.change(A, values={"param.port": 2})
    world.node.ran.clear()
    world.node.say = fails(A, Action.CONFIGURE, answer)
    run(work, Verb.INSTALL, names=(A,))
    assert (f"{A} node.stop" in world.node.ran) is restarts
    assert (f"{A} node.start" in world.node.ran) is restarts
    assert work.book.load(A).state is State.UP


def test_a_failed_configure_leaves_what_runs_alone(world: MemoryWorld) -> None:
    work = work_of(world)
    run(work, Verb.INSTALL, names=(A,))
    world.change(A, values={"param.port": 2})
    world.node.say = fails(A, Action.CONFIGURE)
    world.node.ran.clear()
    outcome = run(work, Verb.INSTALL, names=(A,))
    assert [row.fate for row in outcome.results] == [Fate.FAILED]
    assert world.node.ran == [f"{A} node.check_requirements"]
    assert work.book.load(A).state is State.UP


def test_ays_d19_a_service_that_does_not_stop_is_halted_and_looked_at_again(world: MemoryWorld) -> None:
    work = work_of(world)
    run(work, Verb.INSTALL, names=(A,))
    world.node.ran.clear()
    world.node.say = fails(A, Action.STOP, Answer.NOT)
    run(work, Verb.STOP, names=(A,), alone=True)
    assert world.node.ran == [f"{A} node.{name}" for name in ("stop", "check_down", "halt", "check_down")]
    assert work.book.load(A).state is State.DOWN


def test_ays_d19_one_that_stops_is_not_halted(world: MemoryWorld) -> None:
    work = work_of(world)
    run(work, Verb.INSTALL, names=(A,))
    world.node.ran.clear()
    run(work, Verb.STOP, names=(A,), alone=True)
    assert world.node.ran == [f"{A} node.stop", f"{A} node.check_down"]


def test_ays_d19_one_that_even_a_halt_does_not_end_is_a_failure(world: MemoryWorld) -> None:
    work = work_of(world)
    run(work, Verb.INSTALL, names=(A,))
    world.node.say = fails(A, Action.CHECK_DOWN, Answer.NOT)
    outcome = run(work, Verb.STOP, names=(A,), alone=True)
    (result,) = outcome.results
    assert result.message == "it is not down, even after the hard stop"
    assert result.state is State.STOPPING
    world.node.say = lambda _call: None
    run(work, Verb.STOP, names=(A,), alone=True)
    assert work.book.load(A).state is State.DOWN


def test_a_service_that_does_not_come_up_is_a_failure_and_started_again(world: MemoryWorld) -> None:
    world.node.say = fails(A, Action.CHECK_UP, Answer.NOT, "nothing listens on port 6379")
    work = work_of(world)
    (result,) = run(work, Verb.INSTALL, names=(A,)).results
    assert (result.message, result.state) == ("it is not up: nothing listens on port 6379", State.DEAD)
    world.node.say = lambda _call: None
    world.node.up.clear()
    run(work, Verb.INSTALL, names=(A,))
    assert world.node.ran.count(f"{A} node.start") == 2
    assert work.book.load(A).state is State.UP


def test_check_requirements_is_asked_before_anything_is_touched(world: MemoryWorld) -> None:
    world.node.say = fails(A, Action.CHECK_REQUIREMENTS, Answer.NOT, "2 GiB of memory are needed")
    (result,) = run(work_of(world), Verb.INSTALL, names=(A,)).results
    assert result.message == "what it requires is not there: 2 GiB of memory are needed"
    assert world.node.ran == [f"{A} node.check_requirements"]


def test_a_monitor_that_says_no_is_unhealthy_and_one_that_died_is_dead(world: MemoryWorld) -> None:
    work = work_of(world, keep_going=True)
    run(work, Verb.INSTALL)
    world.node.say = fails(A, Action.MONITOR, Answer.NOT, "slow")
    world.node.up.discard(C)
    outcome = run(work, Verb.MONITOR)
    found = {row.key: (row.state, row.message) for row in outcome.results}
    assert found == {
        A: (State.UNHEALTHY, "its monitor says that something is wrong: slow"),
        B: (State.UP, ""),
        C: (State.DEAD, "it is not up"),
    }


@pytest.mark.parametrize(
    ("verb", "action"),
    [(Verb.TEST, Action.TEST), (Verb.EXPORT, Action.DATA_EXPORT), (Verb.IMPORT, Action.DATA_IMPORT)],
)
def test_what_was_asked_once_and_failed_is_no_trouble_of_the_service(
    world: MemoryWorld, verb: Verb, action: Action
) -> None:
    work = work_of(world)
    run(work, Verb.INSTALL, names=(A,))
    world.node.say = fails(A, action)
    outcome = run(work, verb, names=(A,))
    with pytest.raises(ServiceError) as caught:
        check(outcome)
    assert caught.value.hint == ""
    record = work.book.load(A)
    assert record.actions[f"node.{action}"].answer is Answer.FAILED
    assert (record.state, record.failed) == (State.UP, "")


def test_why_a_check_said_no_is_kept(world: MemoryWorld) -> None:
    work = work_of(world)
    run(work, Verb.INSTALL, names=(A,))

    world.node.up.discard(A)
    outcome = run(work, Verb.MONITOR, names=(A,))
    record = work.book.load(A)
    assert record.actions[record.failed].message == f"check_up of {A}"  # what it has printed last
    with pytest.raises(ServiceError) as caught:
        check(outcome)
    assert "monitor --restart" in str(caught.value.hint)
    run(work, Verb.STOP, names=(A,))
    assert work.book.load(A).failed == "", "it was stopped since, and its check says nothing any more"


def test_what_an_action_sets_is_stored_and_no_reason_to_run_again(world: MemoryWorld) -> None:
    def say(call: Call) -> Said | None:
        if call.facts.key == A and call.action is Action.CONFIGURE:
            return Said(answer=Answer.OK, values={"param.key": "made"})
        return None

    world.node.say = say
    work = work_of(world)
    run(work, Verb.INSTALL)
    assert world.facts[A].values == {"param.key": "made"}
    world.node.ran.clear()
    run(work, Verb.INSTALL)
    assert [row for row in world.node.ran if not row.endswith("check_up")] == []


def test_each_producer_is_consumed_and_actions_get_their_arguments(world: MemoryWorld) -> None:
    (world.top / B / "actions_mgmt.py").write_text(
        "class Actions:\n    def consume(self, service, producer):\n        pass\n"
    )
    work = replace(work_of(world), arguments={"id": "backup-7"})
    run(work, Verb.INSTALL)
    (consumed,) = world.here.calls
    assert (consumed.action, dict(consumed.arguments)) == (Action.CONSUME, {"producer": A})
    run(work, Verb.IMPORT, names=(B,))
    assert dict(world.node.calls[-1].arguments) == {"id": "backup-7"}


def test_timeouts_and_tries_are_those_of_the_service(world: MemoryWorld) -> None:
    world.change(A, values={"timeout.prepare": "2m", "tries.prepare": 3})
    run(work_of(world), Verb.INSTALL, names=(A,))
    prepare = next(call for call in world.node.calls if call.action is Action.PREPARE)
    assert (prepare.timeout, prepare.tries) == (120.0, 3)
    world.change(C, values={"timeout.prepare": "soon"})
    (result,) = run(work_of(world), Verb.INSTALL, names=(C,)).results
    assert "'soon' is no span of time" in result.message


def test_a_place_that_is_not_reached_is_tried_again(
    world: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_run, "UNREACHED", (0.0, 0.0, 0.0))
    lost: list[Call] = []

    def late(call: Call) -> None:
        if call.action is Action.START and len(lost) < 1:
            lost.append(call)
            raise ServiceError("node7 cannot be reached", retryable=True)

    world.node.late = late  # it completed there; only the answer was lost
    outcome = run(work_of(world), Verb.INSTALL, names=(A,))
    assert not outcome.failed
    assert world.node.ran.count(f"{A} node.start") == 1


@pytest.mark.parametrize(("away", "tries"), [(3, 4), (9, 4)])
def test_a_place_that_is_away_for_some_time_is_asked_each_time(
    world: MemoryWorld, monkeypatch: pytest.MonkeyPatch, away: int, tries: int
) -> None:
    monkeypatch.setattr(service_run, "UNREACHED", (0.0, 0.0, 0.0))
    asked: list[str] = []

    def reach(what: str) -> None:
        asked.append(what)
        if len(asked) <= away:
            raise ServiceError("node7 cannot be reached", retryable=True)

    def done(key: str) -> dict[tuple[Side, Action], Done]:
        reach("done")
        return world.node.records.get(key, {})

    world.node.say = lambda call: reach("run") if call.action is Action.INSTALL else None
    monkeypatch.setattr(world.node, "done", done)
    (result,) = run(work_of(world), Verb.INSTALL, names=(A,)).results
    assert asked[:tries] == ["run", "done", "done", "done"]
    assert (result.fate is Fate.FAILED) is (away >= tries)
    assert world.node.ran.count(f"{A} node.install") == (away < tries)


def test_one_that_stays_unreached_fails_and_is_asked_the_next_time(
    world: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_run, "UNREACHED", (0.0,))

    def late(call: Call) -> None:
        if call.action is Action.START:
            raise ServiceError("node7 cannot be reached", hint="is it on?", retryable=False)

    world.node.late = late
    work = work_of(world)
    (result,) = run(work, Verb.INSTALL, names=(A,)).results
    assert result.message == "node7 cannot be reached\n    hint: is it on?"
    world.node.late = lambda _call: None
    run(work, Verb.INSTALL, names=(A,))
    assert world.node.ran.count(f"{A} node.start") == 1
    assert work.book.load(A).state is State.UP


def test_as_many_at_a_time_as_may(world: MemoryWorld) -> None:
    for number in range(6):
        world.add(f"x{number}!main")
    now, most, lock = set[str](), list[int](), threading.Lock()

    def say(call: Call) -> None:
        with lock:
            now.add(call.facts.key)
            most.append(len(now))
        time.sleep(0.002)
        with lock:
            now.discard(call.facts.key)

    world.node.say = say
    run(work_of(world, at_once=3), Verb.INSTALL)
    assert max(most) == 3


def test_a_watcher_is_told_what_runs_and_what_it_prints(world: MemoryWorld) -> None:
    seen = Seen()
    run(work_of(world, watcher=seen), Verb.INSTALL, names=(A,))
    assert seen.lines[0] == "a!main: check_requirements: install runs"
    assert "a!main| prepare of a!main" in seen.lines
    assert seen.lines[-1] == "a!main: done"


def test_logs_say_what_was_asked_and_what_came_of_it(world: MemoryWorld) -> None:
    work = work_of(world)
    run(work, Verb.INSTALL, names=(A,))
    (row,) = work.book.logs(A, "node.prepare")
    lines = row[1].read_text().splitlines()
    assert lines[0].endswith("Z # install: node.prepare at in memory: never done")
    assert lines[1].endswith("Z prepare of a!main")
    assert "Z # ok after " in lines[2]


def test_disabled_services_are_left_and_so_is_what_needs_them(world: MemoryWorld) -> None:
    work = work_of(world)
    work.book.save(A, replace(work.book.load(A), disabled=True))
    outcome = run(work, Verb.INSTALL)
    assert {row.key: (row.fate, row.message) for row in outcome.results} == {
        A: (Fate.LEFT, "it is disabled; `buildstep service enable` changes that"),
        B: (Fate.LEFT, "it needs a!main, which is disabled"),
        C: (Fate.DONE, ""),
    }
    with pytest.raises(ServiceError, match="cannot install"):
        run(work, Verb.INSTALL, names=(B,))
    assert not any(row.startswith((A, B)) for row in world.node.ran)
