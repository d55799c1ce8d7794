"""A shell for the person at the terminal, who keeps it: the shell gets a pty and a session of its own.

Whatever has a terminal open can type into it, and what it types is run by the next program that reads there,
on the CI host. So only bytes pass between the two.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from buildstep.errors import SandboxError

_CHUNK = 1 << 16

_END_OF_FILE = b"\x04"
"""What Ctrl-D sends: the pty's way to say that nothing more comes."""


class Pty:
    """A pseudo terminal of a devpts, which need not be mounted at /dev/pts.

    master: our end, a descriptor; number: the name of the other end in its devpts.
    """

    def __init__(self, devpts: Path) -> None:
        """Raises SandboxError."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptsname.restype = ctypes.c_char_p
        try:
            self.master = os.open(devpts / "ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise SandboxError(f"cannot make a terminal for a shell: {error}") from error
        self._devpts = devpts
        name = libc.ptsname(self.master)
        if libc.unlockpt(self.master) != 0 or name is None:
            os.close(self.master)
            raise SandboxError(f"cannot make a terminal for a shell: {os.strerror(ctypes.get_errno())}")
        self.number = Path(os.fsdecode(name)).name

    def open(self) -> int:
        """Open the other end, which does not become the terminal of whoever asks."""
        return os.open(self._devpts / self.number, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)

    def close(self) -> None:
        """Hang up."""
        os.close(self.master)


def attend(pty: Pty, argv: Sequence[str], env: Mapping[str, str], fds: Sequence[int]) -> int:
    """Run a program whose terminal is the pty, in a session of its own, for the person at our stdin.

    argv: starts with a path; fds: more descriptors that it inherits. Returns its exit status, negative for a
    signal. However this ends, our terminal is as it was.
    """
    for fd in fds:
        os.set_inheritable(fd, True)
    end = pty.open()
    try:
        actions = [(os.POSIX_SPAWN_DUP2, end, number) for number in (0, 1, 2)]
        child = os.posix_spawn(argv[0], list(argv), env, file_actions=actions, setsid=True)
    finally:
        os.close(end)
    ended = os.pidfd_open(child)
    try:
        with _raw(0), _same_size(pty.master):
            _pass(pty.master, ended)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(ended)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _pass(master: int, ended: int) -> None:
    """Pass bytes both ways until the child has ended and all that it printed is shown."""
    os.set_blocking(master, False)
    typed, open_ends = b"", {0, master, ended}
    while True:
        wanted = open_ends - {0} if typed else open_ends
        readable, writable, _ = select.select(wanted, [master] if typed else [], [])
        if master in readable and not _show(master):
            open_ends.discard(master)
        if writable:
            with contextlib.suppress(BlockingIOError):
                typed = typed[os.write(master, typed) :]
        if 0 in readable:
            typed = os.read(0, _CHUNK)
            if not typed:
                typed = _END_OF_FILE
                open_ends.discard(0)
        if ended in readable:
            while master in open_ends and _show(master):
                pass
            return


def _show(master: int) -> bool:
    """Copy what there is to our stdout; return False when there is nothing, or will not be."""
    try:
        data = os.read(master, _CHUNK)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EIO:  # nobody has the other end open
            raise
        return False
    while data:
        data = data[os.write(1, data) :]
    return True


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    """Let the keys through as they are, Ctrl-C too: they are for the program in the pty."""
    import tty

    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)  # what was typed ahead is for the program too
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _same_size(master: int) -> Iterator[None]:
    """Keep the pty as large as our terminal."""

    def copy(*_: object) -> None:
        termios.tcsetwinsize(master, termios.tcgetwinsize(0))

    copy()
    before = signal.signal(signal.SIGWINCH, copy)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put our terminal back at the end of a block, should a process that was killed have left it changed."""
    try:
        before = termios.tcgetattr(sys.stdin.fileno())
    except (termios.error, OSError, ValueError, AttributeError):
        yield  # no terminal
        return
    try:
        yield
    finally:
        with contextlib.suppress(termios.error, OSError, ValueError):
            if termios.tcgetattr(sys.stdin.fileno()) != before:
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)
