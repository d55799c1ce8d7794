"""Templates with a schema, as AYS 8 has them: what is asked, of which types, and which services are wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.services.facts import facts_of
from buildstep.services.repository import Repository
from buildstep.services.template_check import check_templates
from tests.unit.services.repositories import NODE, create, template

SCHEMA = (
    "port = type:int default:80 minval:1 descr:'where it listens'\n"
    "host = type:str\n"
    "names = type:str list optional\n"
    "weight = type:float optional\n"
    "os = parent:node\n"
    "db = consume:db:1:2\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    template(tmp_path, "node", NODE)
    template(tmp_path, "db")
    template(tmp_path, "web", {"schema.hrd": SCHEMA})
    create(tmp_path, "node", "a")
    for number in range(3):
        create(tmp_path, "db", f"d{number}")
    return tmp_path


def test_values_have_the_types_of_the_schema(root: Path) -> None:
    data = {"host": "h", "names": ["x", "y z"], "weight": "2.5", "port": 81}
    service = create(root, "web", parent="node", consume=["db!d0", "db!d1"], data=data)
    values = facts_of(Repository.open(root), service).values
    assert {key: values[key] for key in data} == {
        "host": "h",
        "names": ["x", "y z"],
        "weight": 2.5,
        "port": 81,
    }
    assert service.producers["db"] == ["db!d0", "db!d1"]


def test_what_the_schema_wants_and_is_not_given_is_one_error(root: Path) -> None:
    with pytest.raises(SpecError) as caught:
        create(root, "web", consume=["db!d0", "db!d1", "db!d2"])
    told = [str(fault) for fault in caught.value.faults]
    assert len(told) == 2
    assert "it lies in no node (--parent KEY names a service of the role node)" in told[0]
    assert "it uses 3 services of the role db, and 1 to 2 are wanted" in told[1]
    with pytest.raises(SpecError) as caught:
        create(root, "web", parent="node", consume=["db!d0"], data={"port": 0, "hots": "x"})
    assert "hots is no parameter of web" in caught.value.detail
    assert "host is asked and not answered" in caught.value.detail
    assert "0 is less than 1" in caught.value.detail


def test_a_schema_that_is_none_is_told_once(root: Path) -> None:
    template(root, "bad", {"schema.hrd": "port = type:nothing\n"})
    [finding] = [row for row in check_templates(Repository.open(root).templates) if row.wrong]
    assert "bad/schema.hrd:1:" in finding.where
