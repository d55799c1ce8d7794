"""A program that a person or a script talks to through us: bytes pass both ways, and signals are handed on.

It gets pipes, never our own descriptors: whoever has a terminal open can read what is typed there, and
whoever has a file open can change its mode.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from buildstep.system import space, standard_streams
from buildstep.system.files import write_all

_CHUNK = 1 << 16

_LOOK = 0.2
"""Seconds between two looks at whether a program that was told to end has to be killed."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_OTHERS = (signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Signals that we get while a program runs: it decides what they mean.

    hand_on: passes one to the program. patience: seconds in which it has to end after one that asks it to;
    after that, or with a second one, it is killed.
    """

    def __init__(self, hand_on: Callable[[int], None], patience: float) -> None:
        self._hand_on = hand_on
        self._patience = patience
        self._end: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the program has had its time."""
        return self._end is not None and time.monotonic() >= self._end

    @contextlib.contextmanager
    def heeded(self) -> Iterator[Signals]:
        """Take signals in place of being ended by them, for the length of a block."""
        before = {number: signal.signal(number, self._take) for number in (*_ENDING, *_OTHERS)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if number in _ENDING:
            self._end = time.monotonic() + (self._patience if self._end is None else 0)
        self._hand_on(number)


def run(
    argv: Sequence[str], env: Mapping[str, str], signals: Signals, *, fds: Sequence[int], stdin: bool
) -> int:
    """Run a program whose output is ours, and return its status, negative for a signal.

    argv: starts with a path; fds: more descriptors that it inherits; stdin: whether it reads our standard
    input, else there is nothing to read. Raises BrokenPipeError where nobody reads what it prints any more;
    it is killed then, as it is by any other error.
    """
    for fd in fds:
        os.set_inheritable(fd, True)
    with contextlib.ExitStack() as ours, signals.heeded():
        ends = _Ends(ours, stdin=stdin)
        with contextlib.ExitStack() as theirs:
            actions = [(os.POSIX_SPAWN_DUP2, end, n) for n, end in enumerate(ends.make(theirs))]
            child = os.posix_spawn(argv[0], list(argv), dict(env), file_actions=actions, setsid=True)
        ended = os.pidfd_open(child)
        try:
            while not ends.move(ended):
                if signals.is_over:
                    signal.pidfd_send_signal(ended, signal.SIGKILL)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(ended, signal.SIGKILL)
            raise
        finally:
            os.close(ended)
            _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


class _Ends:
    """Our ends of the pipes to a program, and what is on its way to it."""

    def __init__(self, ours: contextlib.ExitStack, *, stdin: bool) -> None:
        self._ours = ours
        self._reads = stdin
        self._to: int | None = None
        self._from: dict[int, int] = {}
        self._typed = b""

    def make(self, theirs: contextlib.ExitStack) -> list[int]:
        """Return the program's three descriptors."""
        read, write = os.pipe()
        theirs.callback(os.close, read)
        if self._reads:
            self._to = write
            os.set_blocking(write, False)
        else:
            os.close(write)
        found = [read]
        for number in (1, 2):
            read, write = os.pipe()
            self._ours.callback(os.close, read)
            theirs.callback(os.close, write)
            os.set_blocking(read, False)
            self._from[read] = number
            found.append(write)
        self._ours.callback(self._close_input)
        return found

    def move(self, ended: int) -> bool:
        """Pass on what there is, for a moment; return whether the program is over and all of it is told."""
        wanted: list[int] = [ended, *self._from]
        if self._to is not None and self._reads and not self._typed:
            wanted.append(0)
        writes = [self._to] if self._to is not None and self._typed else []
        readable, writable, _ = select.select(wanted, writes, [], _LOOK)
        if writable:
            self._write()
        if 0 in readable:
            self._typed = os.read(0, _CHUNK)
            self._reads = bool(self._typed)
            if not self._reads:
                self._close_input()
        for fd in [fd for fd in readable if fd in self._from]:
            self._show(fd)
        if ended not in readable:
            return False
        for fd in list(self._from):
            while self._show(fd):
                pass
        return True

    def _write(self) -> None:
        assert self._to is not None
        try:
            self._typed = self._typed[os.write(self._to, self._typed) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it reads no more
            self._typed, self._reads = b"", False
            self._close_input()

    def _close_input(self) -> None:
        if self._to is not None:
            os.close(self._to)
            self._to = None

    def _show(self, fd: int) -> bool:
        """Copy what there is to our own stream; return whether there may be more."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._from.pop(fd, None)
            return False
        if self._from[fd] == standard_streams.STDERR:
            with contextlib.suppress(OSError):  # nobody reads it, or its disk is full: the program goes on
                write_all(standard_streams.STDERR, data)
            return True
        with space.locating(standard_streams.STDOUT):
            write_all(standard_streams.STDOUT, data)
        return True
