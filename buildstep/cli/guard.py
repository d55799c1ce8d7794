"""How a command ends: signals turned into errors, and errors into exit codes.

It imports next to nothing, for commands that are over before a pool would be opened.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from buildstep.cli import debugging, report_error
from buildstep.errors import BuildstepError, Interrupted


def enclosed(job: Callable[[], int]) -> int:
    """Run a job as `guarded` does, in namespaces of its own where this machine allows it."""
    from buildstep.system import namespaces

    if namespaces.supported():
        return namespaces.enclose(lambda: guarded(job))
    return guarded(job)


@contextmanager
def signals() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into Interrupted; a later one must not break the clean-up."""
    stopping = False

    def stop(signum: int, _frame: object) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            raise Interrupted(signum, signal.Signals(signum).name)

    before = {
        signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def guarded(job: Callable[[], int]) -> int:
    """Run a job with signals as errors, and return its exit code or that of its error."""
    try:
        with signals():
            return job()
    except (BuildstepError, OSError) as error:
        status = report_error(error, debug=debugging())
        if status is None:
            raise
        return status
