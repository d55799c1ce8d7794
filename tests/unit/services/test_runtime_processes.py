"""Processes of services under our own supervisor, for real."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.services.interface import Action, Answer, Process
from buildstep.services.runtime import proc
from buildstep.services.runtime.supervisors import keeper
from tests.servers.processes import free_port
from tests.unit.services.calls import Bench

pytestmark = [
    pytest.mark.commands,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="our supervisor reads Linux's /proc"),
]

LISTEN = """
import socket, sys, time, signal
servers = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
print("listening", flush=True)
while True: time.sleep(60)
"""


def listening(*ports: int, **more: object) -> Process:
    argv = [sys.executable, "-S", "-c", LISTEN, *map(str, ports)]
    return Process(1, "server", argv, ports=ports, manager="process", **more)  # type: ignore[arg-type]


def shell(text: str, **more: object) -> Process:
    given = {"manager": "process", "start_seconds": 3.0, "stop_seconds": 3.0, **more}
    return Process(1, "sh", ["sh", "-c", text], **given)  # type: ignore[arg-type]


def state(bench: Bench) -> dict[str, object]:
    return json.loads((bench.state / "x!main/processes/1/state.json").read_text())  # type: ignore[no-any-return]


def number(bench: Bench, what: str) -> int:
    found = state(bench)[what]
    assert isinstance(found, list)
    return int(found[0])


def runs(pid: int) -> bool:
    found = proc.entry(pid)
    return found is not None and found.state not in "ZX"


@pytest.fixture
def node(bench: Bench) -> Iterator[Bench]:
    """A bench whose processes are killed at the end, whatever a test did."""
    yield bench
    for folder in bench.state.glob("*/processes/*"):
        with contextlib.suppress(OSError, ValueError):
            known = json.loads((folder / "state.json").read_text())
            for who in ("keeper", "main"):
                if known[who]:
                    proc.send(proc.Identity(*known[who]), signal.SIGKILL)
        marker = f"BUILDSTEP_PROCESS={folder.parent.parent.name}:{folder.name}"
        assert not proc.kill_all(lambda marker=marker: proc.family(marker=marker))  # type: ignore[misc]


def test_a_service_goes_through_its_life(node: Bench) -> None:
    processes = [listening(free_port(), free_port())]
    assert node.service(Action.CHECK_UP, processes, timeout=2).answer is Answer.NOT
    assert node.service(Action.START, processes).answer is Answer.OK
    main = number(node, "main")
    assert runs(main)
    assert node.service(Action.CHECK_UP, processes).answer is Answer.OK
    assert node.service(Action.MONITOR, processes).answer is Answer.OK
    assert node.service(Action.START, processes).answer is Answer.OK
    assert number(node, "main") == main  # the second start found it up
    assert node.service(Action.STOP, processes).answer is Answer.OK
    assert not runs(main)
    assert node.service(Action.CHECK_DOWN, processes).answer is Answer.OK
    assert node.service(Action.STOP, processes).answer is Answer.OK
    assert node.service(Action.UNINSTALL, processes).answer is Answer.OK
    assert not (node.state / "x!main/processes/1").exists()


def test_a_port_that_another_holds_is_told_with_its_holder(node: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = node.service(Action.START, [listening(port)])
        said = f"server cannot start: port {port} is held by pid {os.getpid()} ({proc.name_of(os.getpid())})"
        assert (outcome.answer, outcome.message) == (Answer.FAILED, said)
        # It is not ours: the service is down, though somebody listens.
        assert node.service(Action.CHECK_DOWN, [listening(port)]).answer is Answer.OK
        assert node.service(Action.CHECK_UP, [listening(port)]).answer is Answer.NOT


def test_a_process_that_fails_at_once_is_a_failure_with_what_it_said(node: Bench) -> None:
    outcome = node.service(Action.START, [shell("echo no such disk >&2; exit 7", start_seconds=20.0)])
    assert (outcome.answer, outcome.message) == (Answer.FAILED, "sh does not get up: it exited with status 7")
    assert "sh: no such disk" in node.lines
    assert outcome.seconds < 5
    assert node.service(Action.CHECK_DOWN, [shell("")]).answer is Answer.OK


def test_a_program_that_is_not_there_and_a_user_that_is_not_are_named(node: Bench) -> None:
    absent = Process(1, "p", ["/no/such/program"], manager="process")
    assert node.service(Action.START, [absent]).message == (
        "process p: /no/such/program cannot be started: No such file or directory"
    )
    nobody = Process(1, "p", ["sleep", "1"], manager="process", user="no-such-user")
    assert node.service(Action.START, [nobody]).message == "process p: there is no user no-such-user"
    wrong = Process(1, "p", ["sleep", "1"], manager="windows")
    expected = "process.1 of x!main: no supervisor windows; one of systemd, process"
    assert node.service(Action.START, [wrong]).message == expected


def test_processes_start_by_priority_and_stop_in_reverse(node: Bench) -> None:
    log = node.folder / "order"
    text = "trap 'echo stop {0} >> {1}; exit 0' TERM; echo start {0} >> {1}; while :; do sleep 0.05; done"
    processes = [
        Process(n, f"p{n}", ["sh", "-c", text.format(n, log)], priority=priority, manager="process")
        for n, priority in ((1, 20), (2, 10), (3, 10))
    ]
    assert node.service(Action.START, processes).answer is Answer.OK
    assert proc.wait_until(lambda: log.exists() and log.read_text().count("start") == 3, 5)
    assert node.service(Action.STOP, processes).answer is Answer.OK
    lines = log.read_text().splitlines()
    assert sorted(lines[:3]) == ["start 1", "start 2", "start 3"]
    assert lines[3:] == ["stop 1", "stop 3", "stop 2"]


def test_a_start_that_fails_stops_what_it_had_started(node: Bench) -> None:
    good = Process(1, "good", ["sleep", "60"], priority=1, manager="process")
    bad = Process(2, "bad", ["sh", "-c", "exit 1"], priority=2, manager="process")
    assert node.service(Action.START, [good, bad]).answer is Answer.FAILED
    assert node.service(Action.CHECK_DOWN, [good, bad]).answer is Answer.OK


def test_a_shell_prelude_has_its_environment_and_its_directory(node: Bench) -> None:
    text = "rm -f old;export X=C;echo $X $Y $(pwd);exec sleep 60"
    (node.folder / "old").touch()
    process = shell(text, directory=str(node.folder), environment={"Y": "a b"})
    assert node.service(Action.START, [process]).answer is Answer.OK
    log = node.state / "x!main/processes/1/log"
    assert proc.wait_until(lambda: log.read_text() == f"C a b {node.folder}\n", 5)
    assert not (node.folder / "old").exists()
    variables = Path(f"/proc/{number(node, 'main')}/environ").read_bytes()
    assert b"BUILDSTEP_ACTION" not in variables
    assert node.service(Action.STOP, [process]).answer is Answer.OK


def test_a_program_behind_a_shell_is_asked_to_end_too(node: Bench) -> None:
    """And once only: it writes a line for each signal."""
    inner = "trap 'echo asked >> said' TERM; n=0; while [ ! -s said ] || [ $n -lt 15 ]; do n=$((n+1)); sleep 0.1; done"
    (node.folder / "inner").write_text(inner)
    process = shell("export X=C; sh ./inner; true", directory=str(node.folder), stop_seconds=6.0)
    assert node.service(Action.START, [process]).answer is Answer.OK
    assert node.service(Action.STOP, [process]).answer is Answer.OK
    assert (node.folder / "said").read_text() == "asked\n"


def test_what_ignores_sigterm_is_halted_with_its_whole_tree(node: Bench) -> None:
    text = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 61; sleep 61') & while :; do sleep 0.1; done"
    process = shell(text, stop_seconds=0.3)
    assert node.service(Action.START, [process]).answer is Answer.OK
    pids = proc.family(marker="BUILDSTEP_PROCESS=x!main:1")
    assert len(pids) >= 2
    outcome = node.service(Action.STOP, [process])
    assert (outcome.answer, outcome.message) == (Answer.FAILED, "stop returned False")
    assert node.service(Action.CHECK_DOWN, [process]).answer is Answer.NOT
    assert node.service(Action.HALT, [process]).answer is Answer.OK
    assert node.service(Action.CHECK_DOWN, [process]).answer is Answer.OK
    assert not any(map(runs, pids))


def test_a_process_that_is_killed_comes_back(node: Bench) -> None:
    process = listening(free_port())
    assert node.service(Action.START, [process]).answer is Answer.OK
    first = number(node, "main")
    os.kill(first, signal.SIGKILL)
    assert proc.wait_until(lambda: number(node, "main") != first and state(node)["restarts"] == 1, 8)
    assert node.service(Action.CHECK_UP, [process]).answer is Answer.OK
    assert node.service(Action.STOP, [process]).answer is Answer.OK


def test_a_process_whose_keeper_is_killed_goes_on_and_gets_another(node: Bench) -> None:
    process = listening(free_port())
    assert node.service(Action.START, [process]).answer is Answer.OK
    main, first = number(node, "main"), number(node, "keeper")
    os.kill(first, signal.SIGKILL)
    assert proc.wait_until(lambda: not runs(first), 5)
    assert node.service(Action.CHECK_UP, [process]).answer is Answer.OK
    assert node.service(Action.START, [process]).answer is Answer.OK
    assert (number(node, "main"), number(node, "keeper") != first) == (main, True)
    os.kill(number(node, "keeper"), signal.SIGKILL)
    assert node.service(Action.STOP, [process]).answer is Answer.OK
    assert not runs(main)


def test_a_process_that_goes_into_the_background_is_still_the_service(node: Bench) -> None:
    process = shell("setsid sleep 60 & exit 0")
    assert node.service(Action.START, [process]).answer is Answer.OK
    time.sleep(0.3)
    assert node.service(Action.CHECK_UP, [process]).answer is Answer.OK
    assert node.service(Action.STOP, [process]).answer is Answer.OK
    assert proc.family(marker="BUILDSTEP_PROCESS=x!main:1") == set()


def test_a_number_of_another_process_is_never_killed(node: Bench) -> None:
    """What was recorded before a reboot, or of a process whose number was given again."""
    process = shell("sleep 60")
    other = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
    try:
        folder = node.state / "x!main/processes/1"
        folder.mkdir(parents=True)
        known = proc.identity(other)
        assert known is not None
        for wrong in (known._replace(start=known.start - 1), known._replace(boot="another")):
            text = {"keeper": wrong, "main": wrong, "group": None, "restarts": 0, "ended": ""}
            (folder / "state.json").write_text(json.dumps(text))
            for action in (Action.STOP, Action.HALT):
                assert node.service(action, [process]).answer is Answer.OK
            assert node.service(Action.CHECK_UP, [process]).answer is Answer.NOT
            assert runs(other)
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)


def test_an_action_that_dies_leaves_a_started_service_running(node: Bench) -> None:
    body = """
    def start(self, service):
        service.default("start")
        time.sleep(60)
    """
    process = listening(free_port())
    outcome = node.run(Action.START, body, facts={"processes": [process]}, timeout=3)
    assert outcome.answer is Answer.FAILED
    assert node.service(Action.CHECK_UP, [process]).answer is Answer.OK
    assert node.service(Action.STOP, [process]).answer is Answer.OK


def test_what_a_start_of_one_service_costs_in_processes(node: Bench) -> None:
    body = """
    def start(self, service):
        from buildstep.services.runtime import commands
        service.default("start")
        return service.set("started", commands.started)
    """
    outcome = node.run(Action.START, body, facts={"processes": [shell("exec sleep 60")]})
    assert outcome.values == {"started": 1}  # the keeper; it starts the process itself
    assert node.service(Action.STOP, [shell("exec sleep 60")]).answer is Answer.OK


def test_a_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "LOG_LIMIT", 1000)
    kept = keeper.Keeper({"folder": str(tmp_path), "adopt": None})
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        for text in (b"a" * 1500, b"b" * 1500, b"c" * 10):
            writer.write(text)
            kept._bound_log()
    assert log.read_bytes() == b"c" * 10
    assert (tmp_path / "log.1").read_bytes() == b"b" * 1500
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]
