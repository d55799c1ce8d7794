"""Repositories of services: what is found in directories, and by which keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.services.interface import Side
from buildstep.services.repository import Repository
from tests.unit.services.repositories import NODE, REDIS, create, template


def keys(root: Path, pattern: str) -> list[str]:
    return [service.key for service in Repository.open(root).find(pattern)]


def test_services_lie_in_directories_by_role_and_instance(tmp_path: Path) -> None:
    template(tmp_path, "node.ssh", NODE)
    template(tmp_path, "redis", {**REDIS, "actions_node.py": "class Actions:\n    pass\n"})
    create(tmp_path, "node.ssh", "rack4")
    service = create(tmp_path, "redis", parent="!rack4@node")
    assert service.folder == tmp_path / "services/node!rack4/redis!rack4"
    assert service.key == "node.ssh!rack4:redis!rack4"
    assert service.parent is not None
    assert service.parent.key == "node.ssh!rack4"
    assert service.node is service.parent
    assert service.producers == {"node": ["node.ssh!rack4"]}
    assert dict(service.actions) == {Side.NODE: service.folder / "actions_node.py"}
    assert service.instance.values == {
        "param.port": "6379", "parent": "node.ssh!rack4", "producer.node": ["node.ssh!rack4"],
    }  # fmt: skip


def test_equal_names_and_instances_below_different_parents_are_told_apart(tmp_path: Path) -> None:
    template(tmp_path, "node.ssh", NODE)
    template(tmp_path, "redis", REDIS)
    for node in ("a", "b"):
        create(tmp_path, "node.ssh", node)
        create(
            tmp_path, "redis", "cache", parent=f"!{node}", data={"param.port": {"a": 7000, "b": 8000}[node]}
        )
    assert keys(tmp_path, "redis!cache") == ["node.ssh!a:redis!cache", "node.ssh!b:redis!cache"]
    with pytest.raises(SpecError, match="service: 1 fault") as caught:
        Repository.open(tmp_path).one("redis!cache")
    assert "means 2 services: node.ssh!a:redis!cache, node.ssh!b:redis!cache" in caught.value.detail
    one = Repository.open(tmp_path).one("!b@node:redis!cache")
    assert one.instance.get("param.port") == "8000"
    assert Repository.open(tmp_path).one("node.ssh!a:redis!cache").instance.get("param.port") == "7000"


def test_where_a_service_lies_is_known_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actions run in another directory than the one that a command was called in."""
    template(tmp_path, "redis", REDIS)
    create(tmp_path, "redis")
    monkeypatch.chdir(tmp_path)
    found = Repository.open(Path())
    assert found.root == tmp_path
    assert found.services["redis!main"].folder == tmp_path / "services/redis!main"
