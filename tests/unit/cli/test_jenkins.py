"""The commands of `buildstep jenkins`, against a server on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from buildstep.cli import jenkins as cli
from tests.servers.jenkins import FakeJenkins, Job, Run, node
from tests.unit.net.test_jenkins import TOKEN, jenkins
from tests.unit.net.test_jenkins_fetch import artifacts

__all__ = ["jenkins"]


@pytest.fixture
def environment(jenkins: FakeJenkins, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("JENKINS_URL", jenkins.url)
    monkeypatch.setenv("JENKINS_USER", jenkins.user)
    monkeypatch.setenv("JENKINS_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.command, list(argv), standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value or 0, done.stdout, done.stderr


def test_agents_command(jenkins: FakeJenkins, environment: Path) -> None:
    (environment / "m.json").write_text(
        json.dumps({"os": "linux", "build": {"image": "scratch", "pool": "overlay:/x"}})
    )
    jenkins.nodes = [node("one", labels=("pool-overlay",)), node("two", labels=("pool-dir",))]
    status, out, _ = run("agents", "--for", "m.json", "--json")
    shown = json.loads(out)
    assert (status, [it["able"] for it in shown["agents"]]) == (0, [True, False])
    status, out, _ = run("agents", "--for", "m.json", "--arch", "arm64")
    assert status == 3
    assert "no   one" in out
    assert "architecture is amd64, and arm64 is needed" in out


@pytest.mark.parametrize(
    ("result", "status"),
    [("SUCCESS", 0), ("UNSTABLE", 4), ("FAILURE", 4), ("NOT_BUILT", 3), ("ABORTED", 143)],
)
def test_watch_commands_exit_code_is_the_result(
    jenkins: FakeJenkins, environment: Path, result: str, status: int
) -> None:
    jenkins.jobs["app"] = Job(runs={1: Run(1, log=[b"one\n"], result=result)})
    code, out, err = run("watch", "app")
    assert (code, out) == (status, "one\n")
    assert f"app 1: {result}" in err


def test_trigger_and_fetch_commands(jenkins: FakeJenkins, environment: Path) -> None:
    (environment / "secret").write_text("s3cr3t\n")
    jenkins.jobs["app"] = Job(
        parametrized=True, queue_waits=0, next_run=Run(1, log=[b"x\n"], artifacts=artifacts())
    )
    code, out, _ = run("trigger", "app", "-p", "A=1=2", "--parameter-file", "S=secret", "--watch", "--json")
    assert (code, json.loads(out)["result"]) == (0, "SUCCESS")
    assert jenkins.jobs["app"].runs[1].parameters == {"A": ["1=2"], "S": ["s3cr3t"]}
    code, out, _ = run("fetch", "app", "-o", "got", "--json")
    assert code == 0
    assert len(json.loads(out)["files"]) == 4
    assert (environment / "got/hello-1.0.imgmanifest").is_file()
