"""A service whose state.json cannot be read: it is told, and the others go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.services.flow import Services
from buildstep.services.interface import ServiceError
from buildstep.services.life_cycle import Verb
from buildstep.services.plan import Wish
from buildstep.services.recurring import Rules, Watch
from buildstep.services.removal import remove
from buildstep.services.repository import Repository
from buildstep.services.service_check import check_services
from buildstep.services.status import gather
from tests.unit.services.in_memory import Seen
from tests.unit.services.repositories import create, template


@pytest.fixture
def services(tmp_path: Path) -> Services:
    for name in ("well", "hurt"):
        template(tmp_path, name)
        create(tmp_path, name)
    (tmp_path / "services/hurt!main/state.json").write_text('{"format": 1')
    return Services(Repository.open(tmp_path), {}, secret=False)


def test_others_are_planned(services: Services) -> None:
    (phase,) = services.plan(Wish(verbs=(Verb.INSTALL,), names=("well!main",))).phases
    assert [*phase.rows] == ["well!main"]
    with pytest.raises(ServiceError, match=r"hurt!main/state\.json is no state of a service"):
        services.plan(Wish(verbs=(Verb.INSTALL,), names=("hurt!main",)))


def test_its_state_is_unknown_and_that_is_not_good(services: Services) -> None:
    rows = gather(list(services.repository.services.values()), services.book, lambda _key: "here")
    hurt, well = sorted(rows, key=lambda row: row.service.key)
    assert (well.state, well.trouble) == ("new", "")
    assert hurt.state == "unknown"
    assert "is no state of a service" in hurt.trouble
    assert hurt.to_json()["state"] == "unknown"
    assert not hurt.is_good


def test_a_check_finds_it(services: Services) -> None:
    found = check_services(services.repository, services.repository.services.values())
    assert [(row.where, row.wrong) for row in found] == [("hurt!main", True)]


def test_it_is_not_removed_without_force(services: Services) -> None:
    with pytest.raises(SpecError) as caught:
        remove(services.repository, [services.repository.services["hurt!main"]])
    assert "--force" in caught.value.faults[0].hint


def test_others_are_watched(services: Services) -> None:
    seen = Seen()
    assert [*Watch(services, (), seen, Rules()).spans()] == ["well!main"]
    assert seen.lines == ["hurt!main: its state.json cannot be read, and it is not watched"]
