"""How a command ends: signals turned into errors, and errors into exit codes.

It imports next to nothing, for commands that are over before a pool would be opened.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from buildstep.cli import debugging, report_error
from buildstep.errors import BuildstepError, Interrupted
from buildstep.system.deferral import interrupt


def enclosed(job: Callable[[], int], host_name: str = "") -> int:
    """Run a job as `guarded` does, in namespaces of its own where this machine allows it. host_name: what the
    host is called in there, if not as ever."""
    from buildstep.system import namespaces

    if namespaces.supported():
        return namespaces.enclose(lambda: guarded(job), host_name=host_name or namespaces.HOST_NAME)
    return guarded(job)


_AGAIN = 0.05
"""Seconds until a signal is sent again: the finalizer is over then."""


@contextmanager
def signals() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into Interrupted; a later one must not break the clean-up.

    One that comes while Python runs a finalizer, whose errors nobody sees, is sent again.
    """
    stopping = False

    def stop(signum: int, _frame: object) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            interrupt(Interrupted(signum, signal.Signals(signum).name))

    def unseen(lost: sys.UnraisableHookArgs) -> None:
        nonlocal stopping
        if not isinstance(lost.exc_value, Interrupted):
            hook(lost)
            return
        stopping = False
        again = threading.Timer(_AGAIN, os.kill, (os.getpid(), lost.exc_value.signum))
        again.daemon = True
        again.start()

    hook, sys.unraisablehook = sys.unraisablehook, unseen
    before = {}
    try:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before[signum] = signal.signal(signum, stop)
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        sys.unraisablehook = hook


def guarded(job: Callable[[], int]) -> int:
    """Run a job with signals as errors, and return its exit code or that of its error."""
    try:
        # An error is told in here as well: a second signal must not change the status of the first one.
        with signals():
            try:
                return job()
            except (BuildstepError, OSError, Interrupted) as error:
                status = report_error(error, debug=debugging())
                if status is None:
                    raise
                return status
    except Interrupted as stopped:  # before the job began, after it ended, or while its error was told
        return stopped.code
