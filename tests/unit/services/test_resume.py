"""Kill a run at each of its actions, before and after they complete, and run it again."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildstep.services.apply import Outcome, apply
from buildstep.services.interface import Action, Answer, Call, Side
from buildstep.services.interface import Outcome as Said
from buildstep.services.life_cycle import Verb
from buildstep.services.plan import Wish
from buildstep.services.run_context import Fate, RunContext
from buildstep.services.states import ABSENT, State
from tests.unit.services.in_memory import Killed, MemoryBook, MemoryWorld, book_of, plan_of, work_of

A, B = "a!main", "b!main"

INSTALL = ("check_requirements", "install", "prepare", "configure", "start", "check_up", "monitor")
FULL_RESTART = ("check_requirements", "configure", "stop", "check_down", "halt", "check_down", "start", "check_up",
                "monitor")  # fmt: skip


def run(work: RunContext, *verbs: Verb) -> Outcome:
    return apply(plan_of(Wish(verbs=verbs), work), work)


def kill_at(world: MemoryWorld, number: int, *, completed: bool) -> None:
    """Kill whoever asks for the action with this number; it has completed then, or nothing of it was done."""
    count = 0

    def hit(_call: Call) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed

    if completed:
        world.node.late = hit
    else:
        world.node.say = hit


def revive(world: MemoryWorld) -> None:
    world.node.late, world.node.say = (lambda _call: None), (lambda _call: None)


@pytest.mark.parametrize("completed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, len(INSTALL) + 1))
def test_an_install_killed_at_an_action_goes_on_there(
    tmp_path: Path, number: int, *, completed: bool
) -> None:
    world = MemoryWorld(tmp_path)
    world.add(A)
    kill_at(world, number, completed=completed)
    with pytest.raises(Killed):
        run(work_of(world), Verb.INSTALL)
    revive(world)
    run(work_of(world), Verb.INSTALL)
    assert world.node.ran == [f"{A} node.{name}" for name in INSTALL]
    record = book_of(world).load(A)
    assert (record.state, record.underway) == (State.UP, None)


@pytest.mark.parametrize("completed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, len(FULL_RESTART) + 1))
def test_a_reconfiguration_that_has_to_halt_goes_on_too(
    tmp_path: Path, number: int, *, completed: bool
) -> None:
    world = MemoryWorld(tmp_path)
    world.add(A)
    run(work_of(world), Verb.INSTALL)
    world.change(A, values={"param.port": 1})
    world.node.ran.clear()

    def stubborn() -> None:
        say = world.node.say
        world.node.say = lambda call: say(call) or (Answer.NOT if call.action is Action.STOP else None)

    kill_at(world, number, completed=completed)
    stubborn()
    with pytest.raises(Killed):
        run(work_of(world), Verb.INSTALL)
    revive(world)
    stubborn()
    run(work_of(world), Verb.INSTALL)
    assert world.node.ran == [f"{A} node.{name}" for name in FULL_RESTART]
    assert book_of(world).load(A).pending == ""


def test_a_change_meanwhile_is_not_missed(tmp_path: Path) -> None:
    world = MemoryWorld(tmp_path)
    world.add(A, values={"param.port": 1})
    kill_at(world, INSTALL.index("start") + 1, completed=True)
    with pytest.raises(Killed):
        run(work_of(world), Verb.INSTALL)
    revive(world)
    world.change(A, values={"param.port": 2})
    world.node.ran.clear()
    run(work_of(world), Verb.INSTALL)
    assert [row.rpartition(".")[2] for row in world.node.ran] == [
        "check_requirements", "configure", "stop", "check_down", "start", "check_up", "monitor",
    ]  # fmt: skip


@pytest.mark.parametrize("completed", [False, True], ids=["before", "after"])
def test_what_a_killed_start_may_have_started_is_stopped(tmp_path: Path, *, completed: bool) -> None:
    world = MemoryWorld(tmp_path)
    world.add(A)
    kill_at(world, INSTALL.index("start") + 1, completed=completed)
    with pytest.raises(Killed):
        run(work_of(world), Verb.INSTALL)
    revive(world)
    world.node.ran.clear()
    run(work_of(world), Verb.STOP)
    assert world.node.ran == [f"{A} node.stop", f"{A} node.check_down"]
    assert world.node.up == set()


@pytest.mark.parametrize("completed", [False, True], ids=["before", "after"])
def test_a_killed_uninstall_leaves_nothing_that_counts_as_done(tmp_path: Path, *, completed: bool) -> None:
    world = MemoryWorld(tmp_path)
    world.add(A)
    run(work_of(world), Verb.INSTALL)
    kill_at(world, 3, completed=completed)  # stop, check_down, uninstall
    with pytest.raises(Killed):
        run(work_of(world), Verb.UNINSTALL)
    revive(world)
    world.node.ran.clear()
    run(work_of(world), Verb.INSTALL)
    assert world.node.ran == [f"{A} node.{name}" for name in INSTALL]


def test_what_a_killed_action_had_set_is_stored_once_it_is_known(tmp_path: Path) -> None:
    world = MemoryWorld(tmp_path)
    world.add(A)

    def late(call: Call) -> None:
        if call.action is Action.CONFIGURE:
            raise Killed

    world.node.late = late
    world.node.say = lambda call: (
        Said(answer=Answer.OK, values={"param.key": "k"}) if call.action is Action.CONFIGURE else None
    )
    with pytest.raises(Killed):
        run(work_of(world), Verb.INSTALL)
    assert world.facts[A].values == {}
    revive(world)
    run(work_of(world), Verb.INSTALL)
    assert world.facts[A].values == {"param.key": "k"}


def test_a_management_action_is_asked_for_where_it_ran(tmp_path: Path) -> None:
    world = MemoryWorld(tmp_path)
    world.add(A)
    (tmp_path / A / "actions_mgmt.py").write_text(
        "class Actions:\n    def init(self, service):\n        pass\n"
    )

    def late(_call: Call) -> None:
        raise Killed

    world.here.late = late
    with pytest.raises(Killed):
        run(work_of(world), Verb.INSTALL)
    world.here.late = lambda _call: None
    run(work_of(world), Verb.INSTALL)
    assert world.here.ran == [f"{A} {Side.MANAGEMENT}.init"]


# -- many services ----------------------------------------------------------------------------------

SERVICES = 200


def name_of(number: int) -> str:
    return f"s{number:03}!main"


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Random dependencies among many services; each needs some of those before it."""
    rng = draw(st.randoms(use_true_random=False))
    found: dict[str, list[str]] = {}
    for number in range(SERVICES):
        few = min(number, rng.choice((0, 1, 1, 2, 3)))
        found[name_of(number)] = [name_of(other) for other in rng.sample(range(number), few)]
    return found


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.randoms(use_true_random=False))
def test_many_services_come_up_and_go_down_in_order_whatever_fails(
    tmp_path_factory: pytest.TempPathFactory, needs: dict[str, list[str]], rng: object
) -> None:
    assert isinstance(rng, random.Random)
    world = MemoryWorld(tmp_path_factory.mktemp("many"))
    for key, others in needs.items():
        world.add(key, others)
    book = MemoryBook(lambda key: world.top / key)
    work = work_of(world, book, at_once=16, keep_going=True)
    wrong: list[str] = []
    bad = {name: rng.choice(tuple(Action)) for name in rng.sample(sorted(needs), 15)}

    def in_order(call: Call) -> Answer | None:
        key = call.facts.key
        if call.action is Action.START and (late := set(needs[key]) - world.node.up):
            wrong.append(f"{key} is started before {late}")
        if call.action is Action.STOP and (early := {k for k in world.node.up if key in needs[k]}):
            wrong.append(f"{key} is stopped before {early}")
        return Answer.FAILED if bad.get(key) is call.action else None

    world.node.say = in_order
    run(work, Verb.INSTALL)
    failed = {key for key, action in bad.items() if book.load(key).failed}
    for key, others in needs.items():
        record = book.load(key)
        assert record.underway is None
        assert (record.state is State.UP) is (key in world.node.up) or key in failed
        if set(others) & failed:
            assert record.state is State.NEW
    killed = rng.randrange(1, 400)
    bad.clear()
    count = Counter[str]()

    def deadly(call: Call) -> Answer | None:
        count["all"] += 1
        if count["all"] >= killed:
            raise Killed
        return in_order(call)

    world.node.say = deadly
    with contextlib.suppress(Killed):
        run(work, Verb.INSTALL)
    world.node.say = in_order
    results = run(work, Verb.INSTALL).results
    assert {row.key: row.fate for row in results if row.fate not in (Fate.DONE, Fate.UNCHANGED)} == {}
    assert world.node.up == set(needs)
    once = Counter(row for row in world.node.ran if row.endswith((".install", ".prepare", ".configure")))
    assert set(once.values()) == {1}
    assert len(once) == 3 * SERVICES
    run(work, Verb.UNINSTALL)
    assert world.node.up == set()
    assert {book.load(key).state for key in needs} <= ABSENT
    assert wrong == []
