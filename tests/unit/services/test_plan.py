"""Plans of services: what runs, what is skipped, where and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import SpecError, UsageError
from buildstep.services.apply import apply
from buildstep.services.decisions import Verdict
from buildstep.services.interface import Process, ServiceError
from buildstep.services.life_cycle import Verb
from buildstep.services.plan import Plan, Unfit, Wish
from buildstep.services.run_context import RunContext
from buildstep.services.states import State
from tests.unit.services.in_memory import MemoryWorld, plan_of, work_of

REDIS, WEB, OTHER = "redis!main", "web!main", "other!main"


@pytest.fixture
def world(tmp_path: Path) -> MemoryWorld:
    found = MemoryWorld(tmp_path)
    found.add(REDIS, values={"param.port": 6379, "process.1.cmd": "redis"}, packages=["redis-server"])
    found.add(WEB, [REDIS], values={"param.port": 80})
    found.add(OTHER)
    return found


@pytest.fixture
def work(world: MemoryWorld) -> RunContext:
    return work_of(world)


def do(work: RunContext, *verbs: Verb, names: tuple[str, ...] = (), **how: Any) -> Plan:
    plan = plan_of(Wish(verbs=verbs, names=names, **how), work)
    assert not apply(plan, work).failed
    return plan


def planned(
    work: RunContext, *verbs: Verb, names: tuple[str, ...] = (), **how: Any
) -> dict[str, dict[str, str]]:
    """Return the reasons of what runs, by service and action; the verdict before it where that is `if`."""
    plan = plan_of(Wish(verbs=verbs, names=names, **how), work)
    found: dict[str, dict[str, str]] = {}
    for phase in plan.phases:
        for key, rows in phase.rows.items():
            for row in rows:
                if row.verdict is not Verdict.SKIP:
                    found.setdefault(key, {}).setdefault(row.unit.name, row.reason)
    return found


def test_the_first_time_all_of_it_runs_in_the_order_of_needs(work: RunContext) -> None:
    plan = plan_of(Wish(verbs=(Verb.INSTALL,)), work)
    (phase,) = plan.phases
    assert phase.first == {OTHER: frozenset(), REDIS: frozenset(), WEB: frozenset({REDIS})}
    rows = [(row.unit.name, row.verdict, row.reason) for row in phase.rows[REDIS]]
    assert ("node.install", Verdict.RUN, "never done") in rows
    assert ("node.stop", Verdict.SKIP, "it was not started") in rows
    assert ("node.start", Verdict.RUN, "it is not up") in rows
    assert {row.place for row in phase.rows[REDIS]} == {"in memory"}


def test_a_plan_changes_nothing(work: RunContext, world: MemoryWorld) -> None:
    before = sorted(world.top.rglob("*"))
    plan_of(Wish(verbs=(Verb.INSTALL,)), work)
    assert sorted(world.top.rglob("*")) == before
    assert world.node.ran == []


def test_again_nothing_but_the_question_whether_it_is_up(work: RunContext, world: MemoryWorld) -> None:
    do(work, Verb.INSTALL)
    world.node.ran.clear()
    do(work, Verb.INSTALL)
    assert sorted(world.node.ran) == [f"{key} node.check_up" for key in (OTHER, REDIS, WEB)]


def test_ays_d16_a_changed_port_configures_and_restarts_and_does_not_prepare(
    work: RunContext, world: MemoryWorld
) -> None:
    do(work, Verb.INSTALL)
    world.change(REDIS, values={"param.port": 6380, "process.1.cmd": "redis"})
    found = planned(work, Verb.INSTALL)
    assert found[REDIS]["node.configure"] == "param.port 6379 -> 6380"
    assert found[WEB]["node.configure"] == "redis!main param.port 6379 -> 6380"
    assert "node.prepare" not in found[REDIS]
    assert "node.install" not in found[REDIS]
    assert found[REDIS]["node.stop"] == "if configure does not say that what runs has taken it"
    assert found[OTHER] == {
        "node.check_up": "it is up: is it still up?",
        "node.start": "if it is not up",
        "node.monitor": "if something was changed or started",
    }


def test_a_reason_is_one_line(work: RunContext, world: MemoryWorld) -> None:
    do(work, Verb.INSTALL)
    world.change(OTHER, values={"param.text": "one\ntwo"})
    reason = planned(work, Verb.INSTALL)[OTHER]["node.configure"]
    assert reason == "param.text added: 'one\\ntwo'"


def test_a_package_prepares_and_what_prepare_may_have_undone_is_configured(
    work: RunContext, world: MemoryWorld
) -> None:
    do(work, Verb.INSTALL)
    world.change(REDIS, packages=["redis-server", "redis-tools"])
    found = planned(work, Verb.INSTALL, names=(REDIS,))[REDIS]
    assert found["node.check_requirements"] == "prepare runs"
    assert found["node.prepare"] == "packages added: redis-tools"
    assert found["node.configure"] == "prepare ran"
    assert "node.install" not in found


def test_a_file_installs(work: RunContext, world: MemoryWorld) -> None:
    do(work, Verb.INSTALL)
    world.change(REDIS, files={"/etc/redis.conf": "port 1\n"})
    found = planned(work, Verb.INSTALL, names=(REDIS,))[REDIS]
    assert found["node.install"] == "/etc/redis.conf added"
    assert "node.prepare" not in found


def test_a_process_restarts_and_does_not_configure(work: RunContext, world: MemoryWorld) -> None:
    do(work, Verb.INSTALL)
    world.change(REDIS, processes=[Process(1, "redis", ["redis", "--fast"])])
    found = planned(work, Verb.INSTALL, names=(REDIS,))[REDIS]
    assert "node.configure" not in found
    assert found["node.stop"] == "process 1 argv added: --fast"
    assert found["node.start"] == "it is not up"


def test_ays_d16_changed_action_code_runs_its_actions_again(work: RunContext, world: MemoryWorld) -> None:
    source = world.top / REDIS / "actions_node.py"
    source.write_text("class Actions:\n    def configure(self, service):\n        pass\n")
    do(work, Verb.INSTALL)
    source.write_text("class Actions:\n    def configure(self, service):\n        return 'nr'\n")
    found = planned(work, Verb.INSTALL, names=(REDIS,))[REDIS]
    assert found["node.configure"].startswith("actions_node.py changed")
    assert found["node.prepare"] == "actions_node.py changed"
    (world.top / REDIS / "redis.conf.j2").write_text("port {{ port }}\n")
    do(work, Verb.INSTALL)
    (world.top / REDIS / "redis.conf.j2").write_text("port  {{ port }}\n")
    assert planned(work, Verb.INSTALL)[REDIS]["node.configure"].startswith("redis.conf.j2 changed")


def test_an_action_counts_what_its_service_says_that_it_counts(work: RunContext, world: MemoryWorld) -> None:
    world.change(REDIS, values={"inputs.prepare": ["param.d*"], "param.disk": 5, "param.port": 1})
    do(work, Verb.INSTALL)
    world.change(REDIS, values={"inputs.prepare": ["param.d*"], "param.disk": 9, "param.port": 1})
    assert planned(work, Verb.INSTALL)[REDIS]["node.prepare"] == "param.disk 5 -> 9"


def test_a_rotated_secret_is_noticed_and_is_nowhere(work: RunContext, world: MemoryWorld) -> None:
    world.secrets[REDIS] = {"param.password": "old-password"}
    do(work, Verb.INSTALL)
    assert "node.configure" not in planned(work, Verb.INSTALL)[REDIS]
    world.secrets[REDIS] = {"param.password": "new-password"}
    assert planned(work, Verb.INSTALL)[REDIS]["node.configure"] == "secret param.password changed"
    do(work, Verb.INSTALL)
    for path in world.top.rglob("*"):
        if path.is_file():
            assert b'password"' not in path.read_bytes().replace(b'secret param.password"', b"")
            assert b"old-password" not in path.read_bytes()
            assert b"new-password" not in path.read_bytes()
    assert (world.top / "key").stat().st_mode & 0o777 == 0o600


def test_management_actions_are_planned_where_a_file_has_them(work: RunContext, world: MemoryWorld) -> None:
    (world.top / WEB / "actions_mgmt.py").write_text(
        "class Actions(ActionsBaseMgmt):\n"
        "    def consume(self, service, producer):\n        pass\n"
        "    def configure(self, service):\n        pass\n"
    )
    names = list(planned(work, Verb.INSTALL, names=(WEB,))[WEB])
    assert names[0] == "mgmt.consume:redis!main"
    assert names.index("mgmt.configure") == names.index("node.configure") + 1
    assert [name for name in names if name.startswith("mgmt")] == [
        "mgmt.consume:redis!main",
        "mgmt.configure",
    ]


def test_ays_d15_a_plan_runs_nothing_of_action_files(work: RunContext, world: MemoryWorld) -> None:
    trace = world.top / "trace"
    for side in ("node", "mgmt"):
        source = f"open({str(trace)!r}, 'w')\nclass Actions:\n    def init(self, service):\n        pass\n"
        (world.top / WEB / f"actions_{side}.py").write_text(source)
    assert planned(work, Verb.INSTALL)[WEB]["mgmt.init"] == "never done"
    assert not trace.exists()


def test_a_file_that_is_no_python_is_told_with_its_line(work: RunContext, world: MemoryWorld) -> None:
    (world.top / WEB / "actions_mgmt.py").write_text("class Actions:\n    def (\n")
    with pytest.raises(SpecError, match="services: 1 fault") as caught:
        planned(work, Verb.INSTALL)
    assert "actions_mgmt.py:2:" in caught.value.detail


def test_all_that_is_wrong_with_services_is_told_at_once(work: RunContext, world: MemoryWorld) -> None:
    for key in (WEB, OTHER):
        (world.top / key / "actions_mgmt.py").write_text(f"# of {key}\n")
    with pytest.raises(SpecError, match="services: 2 faults"):
        planned(work, Verb.INSTALL)


def test_starting_takes_what_is_needed_with_it_and_stopping_what_needs_it(work: RunContext) -> None:
    do(work, Verb.INSTALL)
    assert list(planned(work, Verb.STOP, names=(REDIS,))) == [WEB, REDIS]
    assert list(planned(work, Verb.STOP, names=(REDIS,), alone=True)) == [REDIS]
    do(work, Verb.STOP)
    assert list(planned(work, Verb.START, names=(WEB,))) == [REDIS, WEB]
    assert list(planned(work, Verb.START, names=(REDIS,))) == [REDIS]


def test_a_restart_leaves_what_needs_it_up_and_looks_after_it(work: RunContext, world: MemoryWorld) -> None:
    do(work, Verb.INSTALL)
    world.node.ran.clear()
    do(work, Verb.STOP, Verb.START, names=(REDIS,))
    assert [row for row in world.node.ran if row.startswith(WEB)] == [f"{WEB} node.check_up"]
    world.node.ran.clear()
    do(work, Verb.STOP, Verb.START, names=(REDIS,), consumers=True)
    ran = [row for row in world.node.ran if "check" not in row]
    assert ran == [f"{WEB} node.stop", f"{REDIS} node.stop", f"{REDIS} node.start", f"{WEB} node.start"]


def test_what_is_not_installed_cannot_be_started(work: RunContext) -> None:
    with pytest.raises(Unfit, match="cannot start: nothing was done") as caught:
        planned(work, Verb.START, names=(WEB,))
    assert "web!main: it is new; `buildstep service install` comes first" in caught.value.detail
    assert planned(work, Verb.START) == {}


def test_what_is_needed_is_not_uninstalled(work: RunContext, world: MemoryWorld) -> None:
    do(work, Verb.INSTALL)
    with pytest.raises(Unfit) as caught:
        planned(work, Verb.UNINSTALL, names=(REDIS,))
    assert "web!main needs it; --consumers takes that too" in caught.value.detail
    do(work, Verb.UNINSTALL, names=(REDIS,), consumers=True)
    assert [row for row in world.node.ran if row.endswith(".uninstall")] == [
        f"{WEB} node.uninstall", f"{REDIS} node.uninstall",
    ]  # fmt: skip
    assert work.book.load(REDIS).state is State.UNINSTALLED
    found = planned(work, Verb.INSTALL, names=(REDIS,))[REDIS]
    assert found["node.prepare"] == "never done"


def test_circles_are_named_member_by_member(work: RunContext, world: MemoryWorld) -> None:
    world.needed[REDIS] = frozenset({WEB})
    with pytest.raises(ServiceError, match="need each other in a circle") as caught:
        planned(work, Verb.INSTALL)
    members = caught.value.message.partition("circle: ")[2].split(" -> ")
    assert (len(members), members[0], set(members)) == (3, members[2], {REDIS, WEB})


def test_a_name_that_is_none_has_a_near_one(work: RunContext) -> None:
    with pytest.raises(UsageError, match="no service redis!mein"):
        planned(work, Verb.INSTALL, names=("redis!mein",))


def test_ays_d22_the_plan_as_json_says_what_runs_where_and_why(work: RunContext) -> None:
    value = json.loads(json.dumps(plan_of(Wish(verbs=(Verb.INSTALL,), names=(REDIS,)), work).to_json()))
    (service,) = value["phases"][0]["services"]
    assert service["service"] == REDIS
    assert value["actions"] == sum(row["verdict"] != "skip" for row in service["actions"])
    assert service["actions"][1] == {
        "action": "install", "side": "node", "producer": "", "verdict": "run", "reason": "never done",
        "place": "in memory",
    }  # fmt: skip


def test_who_is_left_to_take_a_change_is_told(work: RunContext, world: MemoryWorld) -> None:
    do(work, Verb.INSTALL)
    world.change(REDIS, values={"param.port": 6380})
    plan = plan_of(Wish(verbs=(Verb.INSTALL,), names=(REDIS,)), work)
    assert plan.notes == ("web!main may have to take the change too: `buildstep service apply`",)
