"""Somebody at a terminal, who sees what is shown there and types."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


class Person:
    """Somebody at a terminal, where a build has opened its shell."""

    def __init__(self, master: int, slave: int, pid: int) -> None:
        self.master, self.slave, self.pid = master, slave, pid
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def sees(self, word: str, seconds: float = 20.0) -> str:
        """Wait for a word on the screen; return all that was shown."""
        end = time.monotonic() + seconds
        while word not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"no {word!r} in {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        return self.seen

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def status(self) -> int:
        end = time.monotonic() + 20
        while not (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            assert time.monotonic() < end, f"it does not end: {self.seen!r}"
            while select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        _, status = found
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def leave(self) -> None:
        """End what still runs there, and close the terminal."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)
        os.close(self.slave)


@contextlib.contextmanager
def at_a_terminal(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, *, stdout: int | None = None, **popen: Any
) -> Iterator[Person]:
    """Run a command on a terminal. stdout: where its standard output goes instead; popen: its user."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (50, 4000))  # no line is wrapped
    child = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *argv],
        env=dict(env),
        cwd=cwd,
        stdin=slave,
        stdout=slave if stdout is None else stdout,
        stderr=slave,
        **popen,
    )
    person = Person(master, slave, child.pid)
    try:
        yield person
    finally:
        child.returncode = 0  # collected by the person
        person.leave()
