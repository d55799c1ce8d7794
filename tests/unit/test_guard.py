"""The guard of the unit tests: unplanned commands and connections fail, planned ones do not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.system import process

TRUE = [sys.executable, "-c", ""]

COMMANDS: dict[str, Callable[[], object]] = {
    "subprocess": lambda: subprocess.run(TRUE, check=True),
    "os.system": lambda: os.system("true"),
    "os.posix_spawn": lambda: os.posix_spawn(sys.executable, TRUE, {}),
    "os.execv": lambda: os.execv(sys.executable, TRUE),
    "run": lambda: process.run(TRUE),
    "query": lambda: process.query(TRUE),
    "spawn": lambda: process.spawn(TRUE).__enter__(),
}


def connect(family: int, address: tuple[str, int] | str) -> None:
    with socket.socket(family) as client:
        client.settimeout(1)
        client.connect(address)


CONNECTIONS: dict[str, Callable[[], object]] = {
    "an address": lambda: connect(socket.AF_INET, ("192.0.2.1", 80)),
    "a name": lambda: socket.getaddrinfo("example.org", 80),
    "a socket of a daemon": lambda: connect(socket.AF_UNIX, "/proc/self/status"),
}


def refused(call: Callable[[], object], seen: list[str]) -> str:
    """Return what the guard said, and forget it, so that this test does not fail by it."""
    with pytest.raises(pytest.fail.Exception) as caught:
        call()
    assert seen
    seen.clear()
    return str(caught.value)


@pytest.mark.parametrize("way", COMMANDS)
def test_an_unplanned_command_fails(way: str, unplanned: list[str]) -> None:
    assert "an unplanned command" in refused(COMMANDS[way], unplanned)


@pytest.mark.parametrize("way", CONNECTIONS)
def test_an_unplanned_connection_fails(way: str, unplanned: list[str]) -> None:
    assert "an unplanned" in refused(CONNECTIONS[way], unplanned)


@pytest.mark.commands
def test_a_planned_command_runs() -> None:
    assert process.run(TRUE).status == 0
    assert process.query(TRUE).status == 0


def test_servers_and_sockets_of_the_test_itself_are_reached(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect(socket.AF_INET, server.getsockname())
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(os.fspath(tmp_path / "s"))
        server.listen()
        client.connect(os.fspath(tmp_path / "s"))


def test_a_fork_is_no_command() -> None:
    child = os.fork()
    if not child:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.commands("true")
def test_a_mark_can_name_the_programs(unplanned: list[str]) -> None:
    assert process.run(["true"]).status == 0
    assert process.query(["true"]).status == 0
    assert "unplanned" in refused(lambda: process.run(TRUE), unplanned)
