"""Bases whose source has something newer by now: a registry's tag, a suite; and what is out of date in an image."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.repository import make_repository
from tests.integration.test_images import REPOSITORY, Agent, agent, build, builder, tarball
from tests.integration.yard import Yard
from tests.servers.fixtures import Registry, start_registry

__all__ = ["agent", "builder"]

Private = Callable[[Callable[[], Any]], Any]


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


# -- what is out of date in an image ------------------------------------------------------------------------


def outdated(place: Yard, *argv: str, status: int = 0) -> str:
    """What the command prints, run as a person runs it."""
    environ = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "BUILDSTEP_SOURCES": "none", **place.environ}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "buildstep", "image", "outdated", *argv], cwd=place.out.parent,
        env={**environ, "PYTHONPATH": str(REPOSITORY), "BUILDSTEP_POOL": place.pool}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout


def test_packages_that_are_out_of_date(place: Yard, tmp_path: Path, private: Private) -> None:
    repository = make_repository(place, tmp_path / "repository")
    repository.put("beta", "1.0")
    repository.put("alpha", "1.0", depends="beta")
    place.build = {"packages": ["alpha"], "order": "packages-first"}
    with repository.served():
        assert not private(place.run).error
        # Another day: both have newer versions, one of them needs a new package.
        repository.put("gamma", "3")
        repository.put("beta", "1.1")
        repository.put("alpha", "2.0", depends="beta, gamma")
        repository.fields = {"Label": "Debian-Security"}
        repository.publish()
        told = outdated(place, "out", "--exit-code", status=20).splitlines()
        assert [row.split() for row in told[1:-1]] == [
            ["alpha", "1.0", "->", "2.0", "security", "Debian-Security:made"],
            ["beta", "1.0", "->", "1.1", "security", "Debian-Security:made"],
            ["gamma", "new", "3", "security", "Debian-Security:made"],
        ]
        assert told[0] == "base: tar:base.tar is the same"
        assert told[-1] == "hello@1.0.0: 3 packages would change, 3 of them for security"
        # The base alone has none of these.
        found = json.loads(outdated(place, f"tar:{place.base}", "--json", "--exit-code"))
        assert (found["packages"], found["count"], found["unknown"]) == ([], 0, False)
    pool = place.out.parent / "pool"
    assert [list((pool / name).iterdir()) for name in ("build", "state/work", "state/journal")] == [
        [],
        [],
        [],
    ]


def test_a_base_in_a_registry_that_is_out_of_date(builder: Agent, logged: Registry) -> None:
    ref = publish(builder, logged, "one")
    made = build(builder, "child", ref, {"srv/y": "1\n"})
    archive = next(made.folder.glob("*.oci.tar"))
    for word in (str(made.folder), str(archive), ref):
        found = json.loads(builder.run("image", "outdated", word, "--json"))
        assert found["base"]["state"] == "same"
    publish(builder, logged, "two")
    # The base in the store, by its name: what the tag was then.
    uuid = made.record["inputs"]["image"]["uuid"]
    for word in (str(made.folder), str(archive), uuid, ref):
        found = json.loads(builder.run("image", "outdated", word, "--json"))
        assert found["base"]["state"] == "changed"
        assert found["base"]["text"].startswith(f"the tag {ref} changed since ")
        assert found["count"] == 1
    assert found["why"] == "the image has no package manager that we know"
    # An archive whose record is elsewhere says itself what it was made from.
    alone = builder.top / "alone.oci.tar"
    alone.write_bytes(archive.read_bytes())
    found = json.loads(builder.run("image", "outdated", str(alone), "--json"))
    assert found["base"]["state"] == "changed"
    assert builder.left() == []
