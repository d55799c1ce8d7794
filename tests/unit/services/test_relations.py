"""What services need: orders, cycles, who uses whom."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.services.interface import ServiceError
from buildstep.services.relations import Relations, consume, relations
from buildstep.services.repository import Repository
from buildstep.services.service_check import check_services
from tests.unit.services.repositories import NODE, create, template


def test_what_is_needed_comes_first_and_levels_can_go_together() -> None:
    needs = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
    found = Relations(needs, {})
    assert found.levels() == [["a"], ["b", "c"], ["d"]]
    assert found.order(["d", "b"]) == ["b", "d"]
    assert found.needed_by(["d"]) == {"a", "b", "c"}
    assert found.who_needs(["a"]) == {"b", "c", "d"}


def test_a_thousand_services_are_ordered() -> None:
    chance = random.Random(7)
    names = [f"s{number}" for number in range(1000)]
    needs = {name: set(chance.sample(names[:number], min(number, 3))) for number, name in enumerate(names)}
    place = {name: number for number, name in enumerate(Relations(needs, {}).order())}
    assert all(place[need] < place[name] for name, wants in needs.items() for need in wants)


def test_a_cycle_is_named_member_by_member_with_its_reasons(tmp_path: Path) -> None:
    for name in ("aa", "bb", "cc"):
        template(tmp_path, name)
        create(tmp_path, name)
    repository = Repository.open(tmp_path)
    for name, need in (("aa", "bb"), ("bb", "cc"), ("cc", "aa")):
        repository.one(name).set({f"producer.{need}": [f"{need}!main"]})
    with pytest.raises(ServiceError) as caught:
        relations(Repository.open(tmp_path)).order()
    assert caught.value.code == 23
    assert caught.value.detail.splitlines() == [
        "  aa!main -> cc!main -> bb!main -> aa!main",
        "    cc!main needs aa!main: producer.aa",
        "    bb!main needs cc!main: producer.cc",
        "    aa!main needs bb!main: producer.bb",
    ]
    [finding] = check_services(Repository.open(tmp_path), Repository.open(tmp_path).services.values())
    assert "aa!main -> cc!main -> bb!main -> aa!main" in finding.where


def test_a_parent_is_needed_and_cannot_use_what_lies_in_it(tmp_path: Path) -> None:
    template(tmp_path, "node", NODE)
    template(tmp_path, "web")
    create(tmp_path, "node", "a")
    create(tmp_path, "web", parent="node!a")
    repository = Repository.open(tmp_path)
    assert relations(repository).needs == {"node!a": set(), "node!a:web!a": {"node!a"}}
    with pytest.raises(SpecError) as caught:
        consume(repository, repository.one("node"), [repository.one("web")])
    assert "makes a cycle: node!a -> node!a:web!a -> node!a" in caught.value.detail


def test_a_producer_of_another_role_or_none_is_told(tmp_path: Path) -> None:
    for name in ("db", "web"):
        template(tmp_path, name)
        create(tmp_path, name)
    repository = Repository.open(tmp_path)
    repository.one("web").set({"producer.cache": ["db!main"], "producer.db": ["db!maim"]})
    assert [
        str(finding).partition("instance.hrd: ")[2]
        for finding in check_services(repository, [repository.one("web")])
    ] == [
        "producer.cache: db!main has the role db",
        'producer.db: there is no service db!maim (did you mean "db!main"?)',
    ]


def test_a_role_that_the_template_wants_and_the_instance_lost_is_told(tmp_path: Path) -> None:
    template(tmp_path, "db")
    template(tmp_path, "web", {"service.hrd": "dependencies.global = db\n"})
    create(tmp_path, "db")
    web = create(tmp_path, "web")
    (web.folder / "instance.hrd").write_text("")
    repository = Repository.open(tmp_path)
    [finding] = check_services(repository, [repository.one("web")])
    assert str(finding) == (
        "web!main: dependencies.global: it uses no service of the role db (buildstep service consume web!main KEY)"
    )
