"""The seven shapes of templates that AYS has had, as fixtures: they are read, checked, created and told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.services.answers import Answers, Source
from buildstep.services.facts import facts_of, secrets_of
from buildstep.services.interface import Facts, Side
from buildstep.services.relations import relations
from buildstep.services.repository import Repository
from buildstep.services.service_check import check_services
from buildstep.services.template_check import check_templates
from tests.unit.services.repositories import create

SHAPES = Path(__file__).parents[3] / "fixtures/services/servicetemplates"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """One service of each shape."""
    root = tmp_path_factory.mktemp("site")
    shutil.copytree(SHAPES, root / "servicetemplates")
    answers = Answers([Source("-D", {"system.paths.base": "/srv/x"})])
    create(root, "memo", answers=answers, data=None)
    for name in ("paper", "shelf.ssh", "desk", "sandbox_build", "keyring.ssh", "shelf_client.ssh", "forge"):
        create(root, name)
    create(root, "node.ssh", "rack4", data={"ssh.port": 2222})
    create(root, "courier", parent="@node", data={"param.port": 7745})
    return Repository.open(root)


def facts(site: Repository, pattern: str) -> Facts:
    return facts_of(site, site.one(pattern))


def test_nothing_is_wrong_with_them(site: Repository) -> None:
    found = check_templates(site.templates)
    assert [finding for finding in found if finding.wrong] == []
    assert [finding.where.rpartition("/")[2] for finding in found] == ["service.hrd: roles"]
    assert check_services(site, site.services.values()) == []
    assert len(site.templates.all) == 12


def test_a_binary_with_one_process_and_all_parameters_asked(site: Repository) -> None:
    memo = facts(site, "memo")
    [process] = memo.processes
    assert process.argv == [
        "python3",
        "/srv/x/apps/memo/memo-server",
        "/srv/x/cfg/memo.main.conf",
        "127.0.0.1:6479",
    ]
    assert (process.ports, process.priority, process.manager) == ((6479,), 1, "process")
    assert (process.start_seconds, process.stop_seconds) == (20.0, 10.0)
    assert {key: value for key, value in memo.values.items() if key.startswith("param.")} == {
        "param.disk": False, "param.mem": 64, "param.passwd": "", "param.port": 6479, "param.ip": "127.0.0.1",
        "param.unixsocket": "",
    }  # fmt: skip
    assert memo.trees == {"/srv/x/apps/memo": site.one("memo").folder / "bin"}


def test_several_ports_and_a_prelude_for_the_shell(site: Repository) -> None:
    paper = facts(site, "paper")
    [process] = paper.processes
    assert process.argv[:2] == ["/bin/sh", "-c"]
    assert process.argv[2].startswith(
        "rm -f /opt/services/var/paper.main/lock;export PAPER_MODE=C;exec python3 "
    )
    assert process.ports == (27117, 28117)
    assert (paper.values["admin.login"], paper.values["db.main"]) == ("", "main")


def test_no_ports_a_dependency_and_an_empty_instance(site: Repository) -> None:
    gate = facts(site, "gate")
    [process] = gate.processes
    assert (process.name, process.pattern, process.ports) == ("gate__main", "gate-worker --name main", ())
    assert [one.key for one in gate.producers["ground"]] == ["ground!main"]
    assert gate.values["git.export.1"] == {
        "url": "https://git.example/binaries/gate", "source": "", "dest": "/opt/services/gate", "link": "False",
    }  # fmt: skip
    [fault] = _refused(site, "gate", "two")
    assert "instances.maxnr is 1, and 1 are there" in fault


def test_a_service_that_needs_all_the_others(site: Repository) -> None:
    desk = facts(site, "desk")
    assert {role: [one.key for one in some] for role, some in desk.producers.items()} == {
        "ground": ["ground!main"], "gate": ["gate!main"], "courier": ["courier!main"], "memo": ["memo!main"],
        "paper": ["paper!main"],
    }  # fmt: skip
    [process] = desk.processes
    assert process.ports == (5644,)
    assert process.environment == {
        "DESK_MEMO": "127.0.0.1:6479", "DESK_PAPER": "27117", "DESK_PORT": "5644", "DESK_GREETING": "hi, all: ok",
    }  # fmt: skip
    assert [desk.values[f"git.export.{number}"]["source"] for number in (1, 2, 3)] == [
        "apps/desk/*", "apps/shared/*", "lib/*",
    ]  # fmt: skip
    assert (desk.values["param.users"], desk.values["param.kind"]) == ("admin,", "portal")
    assert "param.password" not in desk.values
    assert secrets_of(site, site.one("desk"), {"DESK_PASSWORD": "x"}) == {"param.password": "x"}
    order = relations(site).order()
    assert all(
        order.index(key) < order.index("desk!main") for key in relations(site).needed_by(["desk!main"])
    )


def test_what_only_a_build_needs_is_not_created(site: Repository) -> None:
    courier = site.one("@node:courier")
    assert courier.producers == {"node": ["node.ssh!rack4"], "ground": ["node.ssh!rack4:ground!rack4"]}
    assert facts_of(site, courier).values["dep.args.forge"] == {"param.target": "linux"}


def test_a_block_may_end_a_file_without_a_newline(site: Repository) -> None:
    assert not (SHAPES / "ground/service.hrd").read_bytes().endswith(b"\n")
    assert facts(site, "ground!main").values["build"] == {
        "image": "debian:bookworm", "repo": "https://git.example/images/ground",
    }  # fmt: skip


def test_infrastructure_has_its_actions_and_producers(site: Repository) -> None:
    assert set(site.one("keyring.ssh").actions) == {Side.MANAGEMENT}
    assert set(site.one("sandbox_build").actions) == {Side.NODE}
    assert site.one("shelf_client.ssh").producers == {"shelf": ["shelf.ssh!main"]}
    assert (
        facts(site, "shelf_client.ssh").producers["shelf"][0].values["param.root"]
        == "/opt/services/var/shelf.main"
    )


def _refused(site: Repository, name: str, instance: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        create(site.root, name, instance)
    return [str(fault) for fault in caught.value.faults]
