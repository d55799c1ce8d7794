"""Jobs on the workers of a dask.distributed cluster: each is one task, which does a ticket.

Whatever way a task ends, only a result in the hand-over counts. A worker that is lost in the middle is the
scheduler's business as long as it gives the task to another one, `allowed-failures` times; then it is ours.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any, Final

from buildstep.components.engine import Dispatch, Orders, Work
from buildstep.components.executors.dask_cluster import Address, Cluster, connect
from buildstep.components.executors.dask_task import do
from buildstep.components.executors.tries import (
    Holder,
    Lost,
    NoResult,
    Stopped,
    last_line,
    result_of,
    write_log,
)
from buildstep.components.interface import Job, Result
from buildstep.errors import BuildstepError, CIError, Fault
from buildstep.spec import schema
from buildstep.spec.schema import Rule, array, integer, record, text

VARIABLE: Final = "DASK_SCHEDULER_ADDRESS"
"""dask's own name for the address of a scheduler."""

_SECONDS: Final[Rule] = {"type": "number", "minimum": 0.01, "maximum": 86400}
RULE: Final = record(
    {
        "scheduler": text(r"[a-z]+://\S+", say="an address such as tcp://HOST:8786"),
        "tls_ca": text(),
        "tls_cert": text(),
        "tls_key": text(),
        "labels": array(text(r"\S+", say="a label")),
        "tries": integer(1, 20),
        "patience": _SECONDS,
    }
)
"""What the table `[executors.dask]` of components.toml may hold."""

MOST: Final = 1024
"""Jobs that are waited for at the same time, whatever the workers offer."""

_LOOK: Final = 0.2
"""Seconds between two looks at whether all has to end, or the workers have gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How jobs are given to a cluster. labels: resources that a worker must offer, one of each for a job.
    tries: how often a job is begun before it has failed, besides what the scheduler itself does. patience:
    seconds to wait for the scheduler at the start, and for a worker while all that can do a job are away. For
    the rest see `Address`."""

    scheduler: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    labels: tuple[str, ...] = ()
    tries: int = 3
    patience: float = 60.0

    @classmethod
    def of(cls, orders: Orders) -> Options:
        """Return the options of a table that keeps RULE."""
        known = {row.name for row in fields(cls)}
        found = {name: value for name, value in orders.options.items() if name in known}
        found.setdefault("scheduler", orders.environ.get(VARIABLE, ""))
        return cls(**{**found, "labels": tuple(found.get("labels", ()))})

    def address(self) -> Address:
        return Address(
            scheduler=self.scheduler,
            tls_ca=self.tls_ca,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            patience=self.patience,
        )


class Dask:
    """See `engine.Engine`."""

    far = True

    def faults(self, orders: Orders) -> list[Fault]:
        where = "$.executors.dask"
        found = schema.check(orders.options, RULE, where)
        if not found and not Options.of(orders).scheduler:
            hint = f"the address of the scheduler, such as tcp://HOST:8786; or {VARIABLE}"
            found.append(Fault(where=f"{where}.scheduler", message="is required", hint=hint))
        if bool(orders.options.get("tls_cert")) != bool(orders.options.get("tls_key")):
            found.append(Fault(where=where, message="tls_cert and tls_key go together"))
        for key in ("tls_ca", "tls_cert", "tls_key"):
            file = orders.options.get(key)
            if isinstance(file, str) and file and not os.access(file, os.R_OK):
                found.append(Fault(where=f"{where}.{key}", message=f"{file} cannot be read"))
        return found

    def start(self, orders: Orders, work: Work, dispatch: Dispatch | None) -> DaskExecutor:
        del work
        assert dispatch is not None
        return DaskExecutor(orders, dispatch)


DASK: Final = Dask()


@dataclass
class _Try:
    """One ticket of a job. workers: who has begun it, the last one last; lines: what it said."""

    job: Job
    workers: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


class DaskExecutor:
    """See `interface.Executor`. Raises CIError where the scheduler cannot be reached, or has no worker for a
    job; ToolMissing without dask.distributed."""

    def __init__(self, orders: Orders, dispatch: Dispatch) -> None:
        self._orders, self._dispatch = orders, dispatch
        self._options = options = Options.of(orders)
        self._client = connect(options.address())
        self._stopped = threading.Event()
        self._tries: dict[str, _Try] = {}
        self._topic = f"buildstep-{secrets.token_hex(8)}"
        self._pool = ThreadPoolExecutor(MOST, thread_name_prefix="dask-job")
        try:
            self._cluster = Cluster(self._client, orders, options.labels)
            self._cluster.check(orders.jobs.values())
            self._client.subscribe_topic(self._topic, self._event)
        except BaseException:
            self.stop()
            raise

    @property
    def at_once(self) -> int:
        return min(MOST, self._orders.at_once or self._cluster.threads(self._orders.jobs.values()))

    def submit(self, job: Job, outputs: Mapping[str, str]) -> Future[Result]:
        return self._pool.submit(self._do, job, outputs)

    def stop(self) -> None:
        """Cancel what runs: the far side sees it, and ends its process."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with contextlib.suppress(OSError, TimeoutError):
            self._client.close(timeout=5)

    # -- a job --------------------------------------------------------------------------------------

    def _do(self, job: Job, outputs: Mapping[str, str]) -> Result:
        return result_of(job, self._orders, self._stopped, lambda holder: self._try(job, outputs, holder))

    def _try(self, job: Job, outputs: Mapping[str, str], holder: Holder) -> Result:
        happened: list[str] = []
        avoid: list[str] = []
        for _ in range(self._options.tries):
            attempt = _Try(job)
            try:
                return self._attempt(attempt, outputs, avoid)
            except Lost as why:
                holder.worker = attempt.workers[-1] if attempt.workers else "no worker"
                happened.append(f"{holder.worker}: {why}")
                avoid.append(why.avoid)
                write_log(self._orders, job, attempt.lines)
                self._orders.tell(f"{job.name}: no result from {happened[-1]}")
        raise NoResult("\n".join([f"no worker has given a result, {len(happened)} tries", *happened]))

    def _attempt(self, attempt: _Try, outputs: Mapping[str, str], avoid: list[str]) -> Result:
        """Give a job to the cluster and return its result. Raises Lost, Stopped, CIError."""
        self._look()
        ticket = self._dispatch.send(attempt.job, outputs)
        self._tries[ticket] = attempt
        try:
            ending: Exception | None = None
            try:
                status = self._run(attempt, ticket, avoid)
                ending = Lost(f"it ended with {status}{last_line(attempt.lines)}")
            except Lost as why:
                ending = why
            # It may have put its result before it was lost.
            if (result := self._dispatch.receive(attempt.job, ticket)) is not None:
                return result
            raise ending
        finally:
            del self._tries[ticket]
            with contextlib.suppress(BuildstepError):  # the next build's sweep finds it
                self._dispatch.forget(ticket)

    def _run(self, attempt: _Try, ticket: str, avoid: list[str]) -> int:
        """Run the task of a ticket and return the status of its command. Raises as `_attempt`."""
        from distributed import CancelledError, KilledWorker

        able = self._cluster.able(attempt.job, avoid)
        if not able:
            raise self._gone(attempt.job)
        future = self._client.submit(
            do,
            ticket,
            tuple(self._dispatch.place.split()),
            self._topic,
            key=f"buildstep-{attempt.job.name}-{ticket}",
            pure=False,
            workers=[member.address for member in able],
            resources=dict.fromkeys(self._options.labels, 1) or None,
        )
        try:
            self._await(attempt, future)
            return int(future.result(timeout=self._options.patience))
        except (Stopped, CIError):
            raise
        except KilledWorker as error:
            last = error.last_worker
            text = f"the worker was lost {error.allowed_failures + 1} times"
            raise Lost(text, getattr(last, "address", "")) from error
        except (CancelledError, OSError, TimeoutError) as error:
            if self._client.status != "running":
                raise CIError(
                    "the dask scheduler was lost",
                    detail=str(error),
                    hint="what was built is kept; the same command goes on from there",
                ) from error
            raise Lost(f"the task was cancelled: {error}") from error
        except Exception as error:  # whatever is raised on the far side is raised here again
            raise Lost(f"{type(error).__name__}: {getattr(error, 'message', '') or error}") from error
        finally:
            with contextlib.suppress(OSError, TimeoutError, CancelledError):
                if not future.done():
                    future.cancel()

    def _await(self, attempt: _Try, future: Any) -> None:
        """Wait for a task to end. Raises Stopped, CIError where no worker that could do it is left."""
        there = time.monotonic()
        while not future.done():
            self._look()
            with contextlib.suppress(TimeoutError):
                future.exception(timeout=_LOOK)
            now = time.monotonic()
            if self._client.status != "running" or self._cluster.able(attempt.job):
                there = now if self._client.status == "running" else there
            if now - there > self._options.patience:
                raise self._gone(attempt.job)

    def _gone(self, job: Job) -> CIError:
        return CIError(
            f"no worker of the dask cluster is left that can do {job.name}",
            hint="what was built is kept; the same command goes on from there",
        )

    def _look(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    # -- its lines ----------------------------------------------------------------------------------

    def _event(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Take an event of a task; see `dask_task.do`. It comes in the thread of the client."""
        _, message = event
        attempt = self._tries.get(str(message.get("ticket")))
        if attempt is None:
            return  # of a try that is over
        worker = str(message.get("name"))
        if not attempt.workers or attempt.workers[-1] != worker:
            if attempt.workers:
                self._orders.tell(f"{attempt.job.name}: {attempt.workers[-1]} was lost, {worker} does it now")
            attempt.workers.append(worker)
            self._orders.placed(attempt.job, worker)
        for line in message.get("lines", ()):
            attempt.lines.append(str(line))
            self._orders.say(attempt.job, str(line))
