"""Services in an image: the m.json that is made, and how a container starts them."""

from __future__ import annotations

from typing import Any

import pytest

from buildstep.errors import SpecError
from buildstep.services.bake import BOOT, in_order, manifest_of
from buildstep.services.interface import Facts, Process

REDIS = Process(
    1, "redis", ["redis-server"], ports=[6379], user="redis", directory="/srv", environment={"A": "b"}
)
WEB = Process(1, "web", ["python3", "app.py"], ports=[8080])


def facts(name: str, *processes: Process, packages: tuple[str, ...] = ()) -> Facts:
    return Facts(
        key=f"{name}!main", name=name, instance="main", role=name, processes=processes, packages=packages
    )


def made(document: dict[str, Any], *some: Facts) -> dict[str, Any]:
    return manifest_of(document, some, [process for one in some for process in one.processes])


def test_one_process_is_the_command_of_a_container() -> None:
    document: dict[str, Any] = {"name": "x", "version": "1", "build": {"packages": ["curl"], "run": ["true"]}}
    found = made(document, facts("redis", REDIS, packages=("redis-server", "curl")))
    assert found["name"] == "x"
    build = found["build"]
    assert build["packages"] == ["curl", "redis-server"]
    assert build["run"][0] == "true"
    assert build["oci"] == {
        "cmd": ["redis-server"], "expose": ["6379"], "user": "redis", "workdir": "/srv", "env": {"A": "b"},
    }  # fmt: skip
    assert document["build"]["packages"] == ["curl"]  # what was given is not changed


def test_several_processes_are_started_by_one_that_watches_them() -> None:
    oci = made({}, facts("redis", REDIS), facts("web", WEB))["build"]["oci"]
    assert oci["cmd"] == ["python3", "-I", f"{BOOT}/runtime", "boot", f"{BOOT}/boot.json"]
    assert oci["expose"] == ["6379", "8080"]


def test_what_cannot_start_together_is_refused_before_anything_is_built() -> None:
    with pytest.raises(SpecError) as told:
        made({"build": {"oci": {"cmd": ["x"]}}}, facts("redis", REDIS), facts("other", REDIS))
    assert "port 6379 is also that of redis!main" in told.value.detail
    assert "$.build.oci.cmd" in told.value.detail


def test_services_are_baked_after_those_that_they_need() -> None:
    needs: dict[str, list[str]] = {"web!main": ["redis!main"], "redis!main": [], "other!main": []}
    assert in_order(needs, ["web!main", "redis!main"]) == ["redis!main", "web!main"]
