"""`buildstep lock` as a command: a tag that moves, another agent, exit codes, a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from typing import Any

import pytest

from tests.integration.test_images import Agent, agent, build, builder
from tests.servers.fixtures import Registry, registry

__all__ = ["agent", "builder", "registry"]

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


def publish(builder: Agent, where: str, text: str) -> None:
    """Push a base that has a file with this text."""
    shutil.rmtree(builder.top / "proto-tiny", ignore_errors=True)
    made = build(builder, "tiny", "scratch", {"etc/os-release": "ID=tiny\n", "which": text})
    builder.run("image", "publish", "--replace", str(made.manifest), where)


def digest(builder: Agent) -> str:
    (file,) = json.loads((builder.top / "bits/web/web-1.buildrecord.json").read_text())["artifacts"]
    return str(file["sha256"])


@pytest.fixture
def web(builder: Agent, registry: Registry) -> Agent:
    """An m.json whose base is a tag in a registry."""
    builder.environ = {**EPOCH, "BUILDSTEP_INSECURE_REGISTRIES": registry.host}
    name = f"docker://{registry.host}/bases/{builder.top.name.lower().replace('_', '-')}:1"
    publish(builder, name, "one")
    (builder.top / "proto").mkdir()
    (builder.top / "proto/file").write_text("x")
    spec = {"name": "web", "version": "1", "os": "linux", "type": "other", "build": {"image": name}}
    (builder.top / "m.json").write_text(json.dumps(spec))
    builder.environ["WHERE"] = name
    return builder


def result(agent: Agent, *argv: str) -> tuple[int, str, str]:
    child = agent.start(*argv)
    out, err = child.communicate(timeout=120)
    return child.returncode, out, err


def test_a_tag_that_moves_is_what_it_was(web: Agent) -> None:
    said: dict[str, Any] = json.loads(web.run("lock", "--json", "proto"))
    assert said["packages"] == 0
    written = json.loads((web.top / "m.lock.json").read_text())
    assert written["base"]["digest"].startswith("sha256:")
    web.run("build", "proto")
    first = digest(web)
    assert result(web, "lock", "--check", "proto")[:2] == (0, "m.lock.json is current\n")
    publish(web, web.environ["WHERE"], "another")
    status, out, _ = result(web, "lock", "--check", "--json", "proto")
    assert status == 24
    assert json.loads(out)["changes"][0].startswith("base image: ")
    shutil.rmtree(web.top / "bits/web")
    web.run("build", "--locked", "proto")
    assert digest(web) == first
    # On an agent that has nothing, too: the registry has the old one by its digest.
    shutil.rmtree(web.pool)
    shutil.rmtree(web.top / "bits/web")
    web.run("build", "--locked", "proto")
    assert digest(web) == first
    web.run("build", "--no-lock", "proto")
    assert digest(web) != first
    # Written anew, it is about the new one.
    lines = web.run("lock", "proto").splitlines()
    assert lines[0].startswith("base image: ")
    assert result(web, "lock", "--check", "proto")[0] == 0
    before = (web.top / "m.lock.json").read_bytes()
    web.run("lock", "proto")
    assert (web.top / "m.lock.json").read_bytes() == before


def test_a_base_that_is_gone_is_told_before_anything_is_touched(web: Agent, registry: Registry) -> None:
    web.run("lock", "proto")
    written = json.loads((web.top / "m.lock.json").read_text())
    missing = "0" * 64
    old = written["base"]["digest"].removeprefix("sha256:")
    text = (web.top / "m.lock.json").read_text().replace(old, missing)
    (web.top / "m.lock.json").write_text(text)
    status, _, err = result(web, "build", "proto")
    assert status == 24
    assert "the base image of m.lock.json is gone" in err
    assert missing in err
    assert not (web.top / "bits/web").exists() or os.listdir(web.top / "bits/web") == []


def test_wrong_calls_are_told(web: Agent) -> None:
    for argv, status, told in (
        (("lock", "--check", "proto"), 24, "there is no lock"),
        (("lock", "--update", "curl", "proto"), 24, "there is no lock"),
        (("lock", "--check", "--update", "curl", "proto"), 2, "give one of them"),
        (("build", "--locked", "proto"), 24, "`buildstep lock m.json` writes it"),
        (("lock", "-m", '{"name": "x"}', "proto"), 2, "only an m.json in a file has a lock"),
    ):
        code, out, err = result(web, *argv)
        assert (code, out) == (status, ""), err
        assert told in err
        assert "Traceback" not in err
    (web.top / "m.lock.json").write_text("{}")
    code, _, err = result(web, "build", "proto")
    assert code == 2
    assert err.count("is required") >= 5


def test_a_lock_that_is_killed_leaves_nothing(web: Agent) -> None:
    web.run("lock", "proto")
    before = (web.top / "m.lock.json").read_bytes()
    shutil.rmtree(web.pool)
    child = web.start("lock", "proto")
    journals = web.pool / "state/journal"
    for _ in range(500):
        if journals.is_dir() and any(journals.iterdir()):
            break
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    assert (web.top / "m.lock.json").read_bytes() == before
    assert [path.name for path in web.top.glob("*.lock.json*")] == ["m.lock.json"]
    web.run("heal")
    assert web.left() == []
