"""What executors on other machines share: how a try is lost, and how a job that ends is a result."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from buildstep.components.engine import Orders, log_of
from buildstep.components.interface import Job, Result, State
from buildstep.components.work import told
from buildstep.errors import BuildstepError, CIError
from buildstep.system import space


class Lost(Exception):
    """A try that ended without a result: the message says why. avoid: the address of who had it last."""

    def __init__(self, text: str, avoid: str = "") -> None:
        super().__init__(text)
        self.avoid = avoid


class Stopped(Exception):
    """All has to end."""


class NoResult(Exception):
    """No try has given a result: the message tells of each."""


@dataclass
class Holder:
    """Who has a job. worker: its name, of the last one that had it."""

    worker: str = ""


def result_of(
    job: Job, orders: Orders, stopped: threading.Event, tries: Callable[[Holder], Result]
) -> Result:
    """Return the result of a job, also where it has none: then it failed, or was stopped.

    tries: does the job elsewhere, and says who has it; it raises NoResult, Stopped, BuildstepError, OSError.
    stopped: set where whoever gives out jobs is away, as nobody need wait for that as long as the first one.
    Raises CIError then.
    """
    began, started = time.monotonic(), time.time()
    holder, state = Holder(), State.FAILED
    try:
        return tries(holder)
    except NoResult as error:
        message = str(error)
    except Stopped:
        state, message = State.STOPPED, "was stopped"
    except CIError:
        stopped.set()
        raise
    except (BuildstepError, OSError) as error:
        message = told(space.explain(error) or error)
    log = log_of(orders.state, job.name)
    return Result(
        job=job.name,
        state=state,
        message=message,
        log=log if log.exists() else None,
        worker=holder.worker,
        started=started,
        seconds=time.monotonic() - began,
    )


def write_log(orders: Orders, job: Job, lines: Sequence[str]) -> None:
    """Keep what came of the log of a try that had no result."""
    with contextlib.suppress(OSError):
        log_of(orders.state, job.name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def last_line(lines: Sequence[str]) -> str:
    """Return the last thing that a try said, as the end of a message; empty where it said nothing."""
    said = [line.strip() for line in lines if line.strip()]
    return f", after: {said[-1][:200]}" if said else ""
