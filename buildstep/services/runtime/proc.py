"""Processes, as Linux tells of them in /proc: which one a number means, and which belong together.

A process's number alone proves nothing, as it is given again. Its start time (field 22 of /proc/PID/stat, see
proc_pid_stat(5)) and the boot id together with the number name one process and no other, ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

NAP = 0.01
_LONGEST_NAP = 0.1


class Identity(NamedTuple):
    """One process and no other: number, start time in clock ticks since the boot, and which boot."""

    pid: int
    start: int
    boot: str


class Entry(NamedTuple):
    """A row of the table of processes."""

    pid: int
    parent: int
    session: int
    state: str
    start: int


def read_bytes(path: str) -> bytes:
    """Return what a file of /proc holds; empty if it is gone, or not ours to read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def boot_id() -> str:
    return read_bytes("/proc/sys/kernel/random/boot_id").decode().strip()


def entry(pid: int) -> Entry | None:
    """Return what is known of a process, or None if there is none with this number."""
    # The name of the program, in brackets, may itself have brackets and blanks in it.
    fields = read_bytes(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if len(fields) < 20:
        return None
    return Entry(pid, int(fields[1]), int(fields[3]), fields[0].decode(), int(fields[19]))


def identity(pid: int) -> Identity | None:
    """Return which process a number means now."""
    found = entry(pid)
    return Identity(pid, found.start, boot_id()) if found else None


def alive(known: Identity | None) -> bool:
    """Return whether just this process runs. One that has ended and waits for its parent does not."""
    if known is None or known.boot != boot_id():
        return False
    found = entry(known.pid)
    return found is not None and found.start == known.start and found.state not in "ZX"


def send(known: Identity | None, signum: int) -> bool:
    """Send a signal to just this process; return whether it was there. Raises PermissionError."""
    if known is None:
        return False
    try:
        fd = os.pidfd_open(known.pid)  # what it names cannot become another process after the look below
    except ProcessLookupError:
        return False
    except (AttributeError, OSError):  # a kernel before 5.3, or a container that forbids it
        fd = -1
    try:
        if not alive(known):
            return False
        if fd >= 0:
            signal.pidfd_send_signal(fd, signum)
        else:
            os.kill(known.pid, signum)
    except ProcessLookupError:
        return False
    finally:
        if fd >= 0:
            os.close(fd)
    return True


def table() -> dict[int, Entry]:
    """Return all processes that run, by number."""
    found = (entry(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {one.pid: one for one in found if one is not None and one.state not in "ZX"}


def marked(pid: int, marker: str) -> bool:
    """Return whether a process was started with a variable in its environment, given as NAME=VALUE."""
    return os.fsencode(marker) in read_bytes(f"/proc/{pid}/environ").split(b"\0")


def name_of(pid: int) -> str:
    """Return the name of a process's program."""
    return read_bytes(f"/proc/{pid}/comm").decode(errors="replace").strip()


def command_of(pid: int) -> str:
    """Return a process's command line, its words joined by blanks."""
    return read_bytes(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def family(
    *, roots: Iterable[int] = (), sessions: Iterable[int] = (), marker: str = "", spared: str = ""
) -> set[int]:
    """Return the processes that belong together: those of the sessions, those that have the marker in their
    environment, and whatever descends from these or from the roots.

    roots are not among them, unless they are found in another way. spared: the beginning of a variable; what
    has it but not the marker, and what descends from that, is not among them.
    """
    processes = table()
    sessions = set(sessions)
    chosen: set[int] = set()
    passed: set[int] = set()
    for pid, one in processes.items():
        variables = read_bytes(f"/proc/{pid}/environ").split(b"\0") if marker or spared else []
        if marker and os.fsencode(marker) in variables:
            chosen.add(pid)
        elif spared and any(text.startswith(os.fsencode(spared)) for text in variables):
            passed.add(pid)
        elif one.session in sessions:
            chosen.add(pid)
    known = chosen | set(roots)
    while True:
        more = {
            pid
            for pid, one in processes.items()
            if one.parent in known and pid not in known and pid not in passed
        }
        if not more:
            return chosen - {os.getpid()}
        known |= more
        chosen |= more


def kill_all(find: Callable[[], set[int]], seconds: float = 5.0) -> set[int]:
    """Kill processes until none is found; return those that are left after some seconds.

    find: returns the processes that there are; it is asked again after each round, as they may start others.
    """
    end = time.monotonic() + seconds
    nap = NAP
    while True:
        found = find()
        if not found or time.monotonic() > end:
            return found
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(nap)
        nap = min(_LONGEST_NAP, 2 * nap)


def wait_until(question: Callable[[], bool], seconds: float) -> bool:
    """Ask until the answer is yes, or some seconds are over; return the last answer."""
    end = time.monotonic() + seconds
    nap = NAP
    while not question():
        if time.monotonic() > end:
            return False
        time.sleep(nap)
        nap = min(_LONGEST_NAP, 1.5 * nap)
    return True


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends. prctl(2), PR_SET_PDEATHSIG."""
    _prctl(1, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of what descends from here and loses its own. prctl(2), PR_SET_CHILD_SUBREAPER."""
    _prctl(36, 1)


def _prctl(option: int, value: int) -> None:
    import ctypes

    # Where the C library has no such function there is no such help, and the pipes alone do it.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
