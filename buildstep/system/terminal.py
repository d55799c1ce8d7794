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

ON_TERMINAL = 'exec /bin/sh -i <>"$0" >&0 2>&0'
"""A script for a shell on the terminal that it is given. The first to open one in a session that has none
gets it: this is what job control needs."""

_DEVPTS = Path("/dev/pts")

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
        # In the host's own devpts it may be for nobody to open.
        ptmx = Path("/dev/ptmx") if devpts == _DEVPTS else devpts / "ptmx"
        try:
            self.master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
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


def screen() -> int | None:
    """Return the descriptor of the terminal that a person at our standard input looks at: standard output, or
    error where the output goes elsewhere. None where there is no such person."""
    if not os.isatty(0):
        return None
    return next((fd for fd in (1, 2) if os.isatty(fd)), None)


def host_shell(env: Mapping[str, str]) -> int:
    """Open /bin/sh on the CI host, in the namespaces of this process, for the person at this terminal.

    It has a terminal of its own as well: the person's belongs to a session that is not in these namespaces,
    where there would be no job control. Returns its exit status. Raises SandboxError.
    """
    if not sys.platform.startswith("linux"):
        return os.spawnve(os.P_WAIT, "/bin/sh", ["/bin/sh", "-i"], env)  # noqa: S606
    with contextlib.closing(Pty(_DEVPTS)) as pty:
        return attend(pty, ["/bin/sh", "-c", ON_TERMINAL, f"{_DEVPTS}/{pty.number}"], env, ())


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
            _pass(pty.master, ended, 1 if (found := screen()) is None else found)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(ended)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _pass(master: int, ended: int, shown: int) -> None:
    """Pass bytes both ways until the child has ended and all that it printed is shown. shown: where."""
    os.set_blocking(master, False)
    typed, open_ends = b"", {0, master, ended}
    while True:
        wanted = open_ends - {0} if typed else open_ends
        readable, writable, _ = select.select(wanted, [master] if typed else [], [])
        if master in readable and not _show(master, shown):
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
            while master in open_ends and _show(master, shown):
                pass
            return


def _show(master: int, shown: int) -> bool:
    """Copy what there is to our terminal; return False when there is nothing, or will not be."""
    try:
        data = os.read(master, _CHUNK)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EIO:  # nobody has the other end open
            raise
        return False
    while data:
        data = data[os.write(shown, data) :]
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
