"""A child that runs: what it prints is read, its limits are kept, and its process group ends with it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator

from buildstep.system.command_options import Limits, Reached
from buildstep.system.command_output import READ, Output
from buildstep.system.text import size_text

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL when a child has to go."""

NAP = 0.02
FIRST_NAP = 0.001
"""Seconds between two looks at whether a child has ended; short, so that a signal is answered at once."""

_WATCH = 0.1
"""Seconds between two questions to the watch of a command's limits."""

_PIPES_FULL = 32
"""How often the pipes are read once the child is dead; twice is enough if nobody else writes into them."""


def follow(
    pid: int, alive: Callable[[], bool], ends: tuple[int, int], output: Output, limits: Limits
) -> Reached | None:
    """Read what a child prints until it is over and its process group is gone.

    ends: our ends of its stdout and stderr. Returns the limit that it reached, or None.
    """
    begin = looked = watched = time.monotonic()
    nap = FIRST_NAP
    with selectors.DefaultSelector() as selector, _end_of(pid) as over:
        if over is not None:
            selector.register(over, selectors.EVENT_READ)
        for end, stream in zip(ends, (output.stdout, output.stderr), strict=True):
            selector.register(end, selectors.EVENT_READ, stream)
        while True:
            # Short naps: most children end soon, and one that closed its output goes on without it.
            told = over is not None and over in selector.get_map()
            nap = min(_WATCH if told else NAP, 2 * nap) if not _read(selector, nap) else FIRST_NAP
            ended = told and over not in selector.get_map()
            now = time.monotonic()
            reached = _printed_too_much(limits, output) or _took_too_long(limits, now - begin, now, output)
            if not reached and limits.watch and now - watched > _WATCH:
                watched, reached = now, limits.watch()
            if reached:
                end_group(pid, alive)
                return reached
            if nap == FIRST_NAP and now - looked < NAP and not ended and selector.get_map():
                continue  # it prints all the time: no question to the kernel for each piece
            looked = now
            if not alive():
                break
        # What it left running in its group must neither go on nor hold its output open. What left the group
        # may hold it, and go on: no more is read than was in the pipes.
        signal_group(pid, signal.SIGKILL)
        for _ in range(_PIPES_FULL):
            if not _read(selector, 0):
                break
    return _printed_too_much(limits, output) or (limits.watch() if limits.watch else None)


@contextlib.contextmanager
def _end_of(pid: int) -> Iterator[int | None]:
    """Yield a descriptor that can be read when a child has ended, so that nobody need ask; None where the
    kernel has none: pidfd_open(2), Linux since 5.3."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _read(selector: selectors.BaseSelector, timeout: float) -> bool:
    """Wait for output and hand it to its stream; return whether something came, if only an end."""
    ready = selector.select(timeout)
    for key, _ in ready:
        if key.data is None:  # the child has ended
            selector.unregister(key.fd)
            continue
        data = os.read(key.fd, READ)
        if data:
            key.data.take(data)
        else:
            selector.unregister(key.fd)
    return bool(ready)


def _printed_too_much(limits: Limits, output: Output) -> Reached | None:
    if limits.output is not None and output.bytes > limits.output:
        return Reached("output", f"printed more than {size_text(limits.output)}")
    if output.stdout.overflow or output.stderr.overflow:
        return Reached("answer", f"answered with more than {size_text(limits.answer)}")
    return None


def _took_too_long(limits: Limits, seconds: float, now: float, output: Output) -> Reached | None:
    if limits.total is not None and seconds > limits.total:
        return Reached("total", f"did not end within {limits.total:g} s")
    if limits.idle is not None and now - output.heard > limits.idle:
        return Reached("idle", f"printed nothing for {limits.idle:g} s")
    return None


def signal_group(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)


def end_group(pid: int, alive: Callable[[], bool]) -> None:
    """Interrupt, terminate, then kill a child and its whole process group."""
    for signum, grace in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        signal_group(pid, signum)
        end = time.monotonic() + grace
        while time.monotonic() < end:
            if not alive():
                # The leader is gone; whatever it started has no reason to stay.
                signal_group(pid, signal.SIGKILL)
                return
            time.sleep(0.01)
