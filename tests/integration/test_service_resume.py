"""Services whose runs are killed at each action, stopped by a signal, or run twice at once: real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.service_cli import ServiceCli
from tests.integration.support import descendants, runs, wait_for

ACTIONS = '''\
"""Each action says that it begins and that it is done; one whose name is in `hold` waits in between."""

import pathlib
import time


def _action(side, name):
    def action(self, service, *more, **named):
        top = pathlib.Path(str(service.values["param.top"]))
        row = f"{side}.{name}"
        with (top / "begun").open("a") as stream:
            stream.write(f"{row}\\n")
        while (top / "hold").read_text() == row:
            time.sleep(0.01)
        with (top / "done").open("a") as stream:
            stream.write(f"{row}\\n")
        return True

    return action


class Actions:
'''

NODE = ("check_requirements", "install", "prepare", "configure", "stop", "check_down", "start", "check_up",
        "monitor", "uninstall")  # fmt: skip
MGMT = ("init", "configure", "start")
INSTALL = ("mgmt.init", "node.check_requirements", "node.install", "node.prepare", "node.configure",
           "mgmt.configure", "node.start", "mgmt.start", "node.check_up", "node.monitor")  # fmt: skip

KILLED = """\
import os, signal, sys
from buildstep.services import service_run
stored = service_run.ServiceRun._store
def store(self, begun, outcome):
    if begun.unit.name == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return stored(self, begun, outcome)
service_run.ServiceRun._store = store
from buildstep.cli import main
sys.exit(main(sys.argv[2:]))
"""
"""Runs a command and kills it when an action has completed, before it has written that down."""


class Traced(ServiceCli):
    """A repository with one service whose actions leave their names in files."""

    def __init__(self, top: Path) -> None:
        files = {"service.hrd": "description = 'leaves its traces'\n", "instance.hrd": "param.top = @ASK\n"}
        for side, names in (("node", NODE), ("mgmt", MGMT)):
            rows = "".join(f'    {name} = _action("{side}", "{name}")\n' for name in names)
            files[f"actions_{side}.py"] = ACTIONS + rows
        super().__init__(top, {f"traced/{name}": text for name, text in files.items()})
        self.hold("")
        self.done("create", "traced", "-D", f"param.top={top}")

    def run_killed_after(self, action: str, *words: str) -> int:
        argv = [sys.executable, "-c", KILLED, action, *self.argv(words)[3:]]
        return subprocess.run(argv, capture_output=True, env=self.environ, check=False).returncode

    def hold(self, name: str) -> None:
        (self.top / "hold").write_text(name)

    def rows(self, file: str) -> list[str]:
        path = self.top / file
        return path.read_text().splitlines() if path.exists() else []

    def await_begun(self, name: str, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while name not in self.rows("begun"):
            assert time.monotonic() < end, f"{name} did not begin: {self.rows('begun')}"
            time.sleep(0.01)


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    return Traced(tmp_path)


def kill_all(child: subprocess.Popen[str]) -> None:
    """Kill a run, and wait for the action too: on a busy machine it lives for a moment longer, and would find
    another `hold`."""
    below = descendants(child.pid)
    child.kill()
    child.communicate()
    wait_for(lambda: not any(map(runs, below)))


def test_a_run_killed_at_each_action_goes_on_where_it_was(traced: Traced) -> None:
    for action in INSTALL:
        traced.hold(action)
        child = traced.begin("install", "traced")
        traced.await_begun(action)
        kill_all(child)
    traced.hold("")
    ended = traced.run("install", "traced")
    assert ended.returncode == 0, ended.stderr
    assert traced.rows("done") == list(INSTALL), "each completed once, in order, and none is left out"
    # Those that were killed in the middle began twice.
    assert Counter(traced.rows("begun")) == dict.fromkeys(INSTALL, 2)
    assert traced.states() == {"traced!main": "up"}


def test_ays_d16_a_run_killed_before_it_wrote_down_what_completed_does_not_do_it_again(
    traced: Traced,
) -> None:
    for action in INSTALL:
        assert traced.run_killed_after(action, "install", "traced") == -signal.SIGKILL
    ended = traced.run("install", "traced", "--json")
    assert ended.returncode == 0, ended.stderr
    assert traced.rows("done") == traced.rows("begun") == list(INSTALL)
    assert traced.states() == {"traced!main": "up"}


def test_a_signal_ends_the_action_and_the_next_run_goes_on(traced: Traced) -> None:
    traced.hold("node.prepare")
    child = traced.begin("install", "traced")
    traced.await_begun("node.prepare")
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate(timeout=20)
    assert child.returncode == 128 + signal.SIGTERM, told
    assert "prepare was stopped" in told or "stopped by SIGTERM" in told
    traced.hold("")
    time.sleep(0.1)
    assert "node.prepare" not in traced.rows("done"), "the action goes on though its run was ended"
    assert "install was interrupted at node.prepare" in traced.run("status").stdout
    assert traced.run("install", "traced").returncode == 0
    assert traced.rows("done") == list(INSTALL)


def test_a_second_run_says_who_has_the_lock_and_waits(traced: Traced) -> None:
    traced.hold("node.prepare")
    first = traced.begin("install", "traced")
    traced.await_begun("node.prepare")
    second = traced.begin("install", "traced")
    assert second.stderr is not None
    line = second.stderr.readline()
    assert f"waiting for process {first.pid} (" in line
    traced.hold("")
    assert first.wait(20) == 0
    assert second.wait(20) == 0
    first.communicate()
    second.communicate()
    assert traced.rows("done") == [*INSTALL, "node.check_up"]
