"""The state machine: whatever services answer, no verb comes to an action that its state does not allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.services.decisions import Decisions, Verdict
from buildstep.services.interface import Action, Answer, Side
from buildstep.services.life_cycle import CHECKS, VERBS, Verb
from buildstep.services.plan import Graph, _left
from buildstep.services.records import Ran, Record
from buildstep.services.states import ABSENT, NO, YES, State, after, may
from tests.unit.services.in_memory import MemoryWorld

ONE = "a!main"


def test_every_action_of_a_service_has_its_row_and_no_state_is_a_dead_end() -> None:
    assert YES.keys() == set(Action) - {Action.BUILD}
    assert all(moves.keys() <= set(State) for moves in YES.values())
    assert all(NO[action].keys() <= YES[action].keys() for action in NO)
    for state in State:
        assert any(new is not state for moves in YES.values() for old, new in moves.items() if old is state)


def test_a_service_is_not_started_before_it_is_configured_nor_uninstalled_while_it_runs() -> None:
    assert not may(State.PREPARED, Action.START)
    assert not may(State.NEW, Action.CONFIGURE)
    assert not may(State.UP, Action.UNINSTALL)
    assert not may(State.UP, Action.REMOVE_DATA)
    with pytest.raises(AssertionError, match="start cannot happen to a service that is new"):
        after(State.NEW, Action.START, Answer.OK)


@pytest.mark.parametrize(
    ("state", "action", "answer", "new"),
    [
        (State.UP, Action.CHECK_UP, Answer.NOT, State.DEAD),
        (State.UP, Action.MONITOR, Answer.NOT, State.UNHEALTHY),
        (State.UNHEALTHY, Action.MONITOR, Answer.OK, State.UP),
        (State.STOPPING, Action.CHECK_DOWN, Answer.NOT, State.STOPPING),
        (State.UP, Action.CONFIGURE, Answer.FAILED, State.UP),
        (State.UNINSTALLED, Action.INSTALL, Answer.OK, State.INSTALLED),
    ],
)
def test_where_an_answer_leads(state: State, action: Action, answer: Answer, new: State) -> None:
    assert after(state, action, answer) is new


def courses(verb: Verb, state: State, world: MemoryWorld) -> Iterator[tuple[str, State, list[str]]]:
    """Walk a verb from a state with every row of answers that there can be; yield how each went."""
    records = {ONE: _record(state)}
    graph = Graph(world.needs())
    if _left(verb, ONE, graph, records, [ONE]) is not None:
        return
    todo: list[tuple[Answer, ...]] = [()]
    while todo:
        begin = todo.pop()
        course = Decisions(verb, world.subject(ONE), records[ONE], lambda *_: "")
        said, ran, how = list(begin), list[str](), "done"
        for step, unit in course.units():
            row = course.decide(step, unit)
            assert row.verdict is not Verdict.IF, "something is not known though all has run"
            if row.verdict is Verdict.SKIP:
                continue
            assert may(course.state, unit.action), f"{verb} runs {unit.action} while it is {course.state}"
            if len(ran) == len(said):
                others = (Answer.NOT, Answer.FAILED) if unit.action in CHECKS else (Answer.FAILED,)
                todo += [(*said, other) for other in others]
                said.append(Answer.OK)
            answer = said[len(ran)]
            ran.append(str(unit.action))
            course.learn(unit, answer, Ran(answer=answer, inputs=row.inputs))
            if how := course.failure(step, answer):
                course.end(unit.step, step)
                break
            how = "done"
        yield how, course.state, ran


def _record(state: State) -> Record:
    there = () if state in ABSENT else (Action.INSTALL, Action.PREPARE, Action.CONFIGURE)
    done = {f"{Side.NODE}.{action}": Ran(answer=Answer.OK) for action in there}
    return Record(state=state, actions=done)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("verb", Verb)
def test_no_answers_lead_a_verb_to_what_its_state_does_not_allow(
    verb: Verb, state: State, tmp_path: Path
) -> None:
    world = MemoryWorld(tmp_path)
    world.add(ONE)
    aims = {
        Verb.INSTALL: {State.UP}, Verb.START: {State.UP}, Verb.UNINSTALL: {State.UNINSTALLED},
        Verb.STOP: {State.DOWN, State.CONFIGURED}, Verb.HALT: {State.DOWN, State.CONFIGURED},
        Verb.REMOVE_DATA: {State.REMOVED},
    }  # fmt: skip
    for how, end, ran in courses(verb, state, world):
        if (
            how == "done"
            and verb in aims
            and (ran or state not in ABSENT | {State.INSTALLED, State.PREPARED})
        ):
            assert end in aims[verb], f"{verb} of one that is {state} ends {end} after {ran}"


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("verb", Verb)
def test_a_plan_comes_to_an_end_from_every_state(verb: Verb, state: State, tmp_path: Path) -> None:
    world = MemoryWorld(tmp_path)
    world.add(ONE)
    record = _record(state)
    if _left(verb, ONE, Graph(world.needs()), {ONE: record}, [ONE]) is not None:
        return
    for pending in ("", "configure ran"):
        course = Decisions(verb, world.subject(ONE), replace(record, pending=pending), lambda *_: "")
        rows = []
        for step, unit in course.units():
            rows.append(course.decide(step, unit))
            course.assume(rows[-1])
        assert verb is not Verb.INSTALL or course.state is State.UP


def test_the_order_of_the_documented_life_cycle() -> None:
    install = [step.action for step in VERBS[Verb.INSTALL]]
    assert install == [
        Action.INIT, Action.CONSUME, Action.CHECK_REQUIREMENTS, Action.INSTALL, Action.PREPARE, Action.CONFIGURE,
        Action.STOP, Action.CHECK_DOWN, Action.HALT, Action.CHECK_DOWN, Action.CHECK_UP, Action.START,
        Action.CHECK_UP, Action.MONITOR,
    ]  # fmt: skip
    assert [step.action for step in VERBS[Verb.STOP]] == install[6:10]
