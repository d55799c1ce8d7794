"""Bases whose source has something newer by now: a registry's tag, a suite; and what is out of date in an image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_images import Agent, agent, build, builder, tarball
from tests.servers.fixtures import Registry, start_registry

__all__ = ["agent", "builder"]


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Registry]:
    (tmp_path / "registry").mkdir()
    yield from start_registry(tmp_path / "registry", access=True)


def publish(agent: Agent, server: Registry, text: str) -> str:
    """Another image under the same tag."""
    (agent.top / f"{text}.tgz").write_bytes(
        tarball({"etc/os-release": b"ID=tiny\n", "etc/what": text.encode()})
    )
    made = build(agent, "base", f"tar:{agent.top}/{text}.tgz", {"srv/x": "1\n"})
    agent.run("image", "publish", str(made.folder), f"docker://{server.host}/bases/tiny:latest", "--replace")
    return f"docker://{server.host}/bases/tiny:latest"


def asked(server: Registry) -> int:
    """How often the registry was asked what the tag is."""
    log = (server.storage.parent / "registry.log").read_text(errors="replace")
    return len(re.findall(r'"(?:GET|HEAD) /v2/bases/tiny/manifests/latest ', log))


def reason(agent: Agent, ref: str, *argv: str) -> str:
    """What the plan says of the base."""
    spec = {"name": "child", "version": "1", "os": "linux", "build": {"image": ref}}
    (agent.top / "proto").mkdir(exist_ok=True)
    out = agent.run("build", "-m", json.dumps(spec), "-o", "bits", "--dry-run", "--json", *argv, "proto")
    return str(json.loads(out)["steps"][0]["reason"])


def test_a_tag_is_asked_for_when_it_is_old(builder: Agent, logged: Registry) -> None:
    ref = publish(builder, logged, "one")
    first = build(builder, "child", ref, {"srv/y": "1\n"})
    before = asked(logged)
    (builder.top / "proto-child/srv/y").write_text("2\n")
    again = build(builder, "child", ref, {"srv/y": "1\n"}, "--base-max-age", "3600")
    assert asked(logged) == before, "it was asked for just now"
    assert "the tag was asked for 0 min ago" in again.record["steps"][0]["reason"]
    publish(builder, logged, "two")
    before = asked(logged)
    assert "is in the store" in reason(builder, ref, "--base-max-age", "3600")
    assert asked(logged) == before
    for _ in range(2):  # to ask changes nothing
        assert re.search(r"the tag .* changed since [0-9-]+: a new base", reason(builder, ref, "--pull"))
    newer = build(builder, "child", ref, {"srv/y": "1\n"}, "--pull")
    assert "changed since" in newer.record["steps"][0]["reason"]
    assert newer.record["inputs"]["image"]["digest"] != first.record["inputs"]["image"]["digest"]
    assert "the tag is the same as on" in reason(builder, ref, "--pull")
