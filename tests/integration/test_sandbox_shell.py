"""The debugging shell on a terminal: a pty and a session of its own, and the person's terminal as it was."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.events import Bus
from buildstep.rootfs import sandbox
from buildstep.system import namespaces
from tests.integration.person import Person

pytestmark = pytest.mark.usefixtures("walled")

APPLETS = ("sh", "cat", "stty", "tty", "echo", "sleep", "stat")


@pytest.fixture
def walled(require: Any) -> None:
    require("root", "namespaces", "bwrap", "busybox")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    from buildstep.system.process import which

    top = tmp_path / "root"
    (top / "bin").mkdir(parents=True)
    (top / "bin/busybox").write_bytes(Path(which("busybox")).read_bytes())
    (top / "bin/busybox").chmod(0o755)
    for name in APPLETS:
        (top / "bin" / name).symlink_to("busybox")
    return top


@contextlib.contextmanager
def at_a_shell(root: Path) -> Iterator[Person]:
    master, slave = os.openpty()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for number in (0, 1, 2):
            os.dup2(slave, number)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        sys.stdin = open(0)  # noqa: SIM115 - pytest has another
        os._exit(namespaces.enclose(lambda: _shell(root)))
    person = Person(master, slave, pid)
    person.resize(33, 77)
    try:
        yield person
    finally:
        person.leave()


def _shell(root: Path) -> int:
    options = sandbox.SandboxOptions(resolver_file=None)
    with sandbox.enter(root, bus=Bus(), environ={"TERM": "xterm"}, options=options) as inside:
        return inside.shell()


def test_it_is_a_terminal_of_its_own_with_job_control(root: Path) -> None:
    with at_a_shell(root) as person:
        before = termios.tcgetattr(person.slave)
        person.type("tty; stty size; echo term-$TERM; ls -l /proc/self/fd >/dev/null 2>&1; echo rea''dy\n")
        shown = person.sees("ready")
        assert "/dev/pts/0" in shown
        assert "33 77" in shown
        assert "term-xterm" in shown
        assert "can't access tty" not in shown
        assert "job control" not in shown
        person.resize(44, 99)
        person.type("stty size; echo re''sized\n")
        assert "44 99" in person.sees("resized")
        # Ctrl-C is for what runs in the shell, not for the shell or for the build.
        person.type("echo be''gin; sleep 1000\n")
        person.sees("begin")
        time.sleep(0.3)
        person.type("\x03")
        person.type("echo stop''ped; exit 7\n")
        person.sees("stopped")
        assert person.status() == 7
        assert termios.tcgetattr(person.slave) == before


def test_nothing_that_is_open_there_is_the_persons_terminal(root: Path) -> None:
    with at_a_shell(root) as person:
        status = os.fstat(person.slave)
        mine = f"{status.st_dev}:{status.st_ino}"
        person.type("stat -L -c has-%d:%i /proc/self/fd/0 /proc/self/fd/1 /dev/tty; echo all''-told; exit\n")
        shown = person.sees("all-told")
        assert shown.count("has-") >= 3
        assert f"has-{mine}" not in shown
        person.status()


def test_a_job_left_behind_keeps_nobody_waiting(root: Path) -> None:
    with at_a_shell(root) as person:
        person.type("sleep 1000 & echo start''ed; exit 3\n")
        person.sees("started")
        begin = time.monotonic()
        assert person.status() == 3
        assert time.monotonic() - begin < 10


def test_the_terminal_comes_back_when_the_build_is_killed(root: Path) -> None:
    with at_a_shell(root) as person:
        before = termios.tcgetattr(person.slave)
        person.type("echo rea''dy\n")
        person.sees("ready")
        assert termios.tcgetattr(person.slave) != before
        (child,) = Path(f"/proc/{person.pid}/task/{person.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        assert person.status() == 128 + signal.SIGKILL
        assert termios.tcgetattr(person.slave) == before
