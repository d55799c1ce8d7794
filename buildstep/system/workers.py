"""Several processes that share a job: what Python computes in one process takes one core.

A worker is a fork of this process, so it knows all that is in memory here, and starts in milliseconds. It
must only compute, read and write files: it has none of our threads.
"""

from __future__ import annotations

import _imp
import contextlib
import ctypes
import gc
import importlib
import io
import os
import pickle
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, TypeVar

from buildstep.errors import BuildstepError, UsageError
from buildstep.system import cgroup

VARIABLE = "BUILDSTEP_WORKERS"
"""Says how many worker processes a job may have."""

_MOST = 256
"""Workers that anybody can ask for: more is a mistake."""

Send = Callable[[Any], None]
"""Gives a value to whoever runs the workers. It must be one that pickle takes."""

T = TypeVar("T")


class WorkerLost(BuildstepError):
    """A worker was killed, as by the kernel where memory ran out."""


class Ended:
    """A worker's last word, or all that came of a task.

    error: what went wrong in it; causes: what it was raised from, nearest first.
    """

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.causes: list[BaseException] = []
        while error is not None and (error := error.__cause__) is not None:
            self.causes.append(error)

    def check(self) -> None:
        """Raise the error, with its causes, which pickle leaves out: a full disk is known by them."""
        error = self.error
        for cause in self.causes:
            assert error is not None
            error.__cause__, error = cause, cause
        if self.error is not None:
            raise self.error


def cores() -> int:
    """Return how many processors this process may use: by its mask and by its control group."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(here, cgroup.processors_here() or here))


def count() -> int:
    """Return how many worker processes a job may have: what BUILDSTEP_WORKERS says, else one for a processor.

    Raises UsageError where that says anything but a number from 1 to 256.
    """
    said = os.environ.get(VARIABLE, "")
    if not said:
        return cores()
    if not said.isascii() or not said.isdigit() or not 1 <= int(said) <= _MOST:
        raise UsageError(f"{VARIABLE} is {said!r}", hint=f"give a number from 1 to {_MOST}, or nothing")
    return int(said)


@contextlib.contextmanager
def running(shares: Sequence[T], job: Callable[[T, Send], None]) -> Iterator[Iterator[Any]]:
    """Run `job(share, send)` in a process for each share, and yield an iterator of what they send.

    At the end of the block they are ended; they end also when this process dies. The iterator ends when all
    have done their job. It raises the first error of a worker, WorkerLost.
    """
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()
    workers: dict[int, threading.Thread] = {}

    def values() -> Iterator[Any]:
        busy = len(workers)
        while busy:
            value = found.get()
            if not isinstance(value, Ended):
                yield value
                continue
            value.check()
            busy -= 1

    try:
        for share in shares:
            pid, stream = _start(share, job)
            thread = threading.Thread(target=_listen, args=(stream, found), name="worker", daemon=True)
            workers[pid] = thread
            thread.start()
        yield values()
    finally:
        for pid, thread in workers.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            thread.join()


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def how_it_ended(status: int) -> str:
    """Tell of a process that is no more: what `os.waitpid` said of it, in words."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # those for real time have no names but the first and the last
        return f"was killed by signal {-code}"


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this worker when the process that started it dies, whatever it waits for then.

    parent: the number of that process. A worker that waits for a network, or reads a large file, would find
    out by itself only when it sends something. The thread that started it must live as long as it.
    """
    call = getattr(ctypes.CDLL(None), "prctl", None)
    if call is not None:
        call(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            os._exit(1)


def fork() -> int:
    """Fork this process for a worker. In the worker, what is there now is no garbage, and is not looked at
    for any: so its memory stays shared."""
    sys.stdout.flush()
    gc.freeze()
    with warnings.catch_warnings(), _no_import_under_way():
        # What it warns of, a lock that another thread holds, is none that a worker takes.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        gc.unfreeze()
    return pid


_IMPORT = 10.0
"""Seconds that another thread's import is waited for: one that takes longer may wait for us."""


@contextlib.contextmanager
def _no_import_under_way() -> Iterator[None]:
    """Let no other thread be in the middle of an import during the block.

    A worker would wait for ever for a module that such a thread has begun to import: that thread is not in
    the worker. Python's own fork only waits until none begins one (importlib has a lock for that, and one
    for each module until it is complete).
    """
    locks, me, end = importlib._bootstrap._module_locks, threading.get_ident(), time.monotonic() + _IMPORT  # type: ignore[attr-defined]
    while True:
        _imp.acquire_lock()
        owners = {getattr(lock(), "owner", None) for lock in list(locks.values())}
        if not owners - {None, me} or time.monotonic() > end:
            break
        _imp.release_lock()
        time.sleep(0.001)
    try:
        yield
    finally:
        _imp.release_lock()


def _start(share: T, job: Callable[[T, Send], None]) -> tuple[int, IO[bytes]]:
    read_end, write_end = os.pipe()
    parent = os.getpid()
    pid = fork()
    if pid == 0:
        status = 1
        try:
            die_with_parent(parent)
            os.close(read_end)
            status = _work(share, job, write_end)
        finally:
            os._exit(status)
    os.close(write_end)
    return pid, os.fdopen(read_end, "rb")


def _work(share: T, job: Callable[[T, Send], None], write_end: int) -> int:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # nobody listens any more: our parent is dead
    with os.fdopen(write_end, "wb") as stream:

        def send(value: Any) -> None:
            stream.write(pickled(value))
            stream.flush()

        try:
            job(share, send)
            send(Ended())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the job was asked for
            send(whole(Ended(error)))
    return 0


class _Pickler(pickle.Pickler):
    """Takes an error along by its own word alone.

    A library may have every error take its causes and its trace along (tblib, which dask brings, does), and
    what it was raised from, an error of some C library, often cannot be made again.
    """

    def reducer_override(self, value: Any) -> Any:
        return value.__reduce__() if isinstance(value, BaseException) else NotImplemented


def pickled(value: Any) -> bytes:
    """Return a value as it travels: whole, or nothing of it is written. Errors go by their own word alone."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def unpickled(data: bytes | bytearray | memoryview) -> Any:
    """Return the value that a fork of ourselves, or what it is a fork of, has `pickled`."""
    return pickle.loads(data)  # noqa: S301 - our own


def whole(ended: Ended) -> Ended:
    """Return a last word that survives the way."""
    try:
        unpickled(pickled(ended))
    except Exception:  # noqa: BLE001 - a class of somebody else that cannot be made again
        return Ended(RuntimeError(f"{type(ended.error).__name__}: {ended.error}"))
    return ended


def _listen(stream: IO[bytes], found: queue.SimpleQueue[Any]) -> None:
    """Pass on what a worker sends, and its last word; one without a last word was killed."""
    with stream:
        while True:
            try:
                value = pickle.load(stream)  # noqa: S301 - from a fork of ourselves
            except EOFError:
                found.put(Ended(WorkerLost("a worker process was killed", hint="was memory short?")))
                return
            except pickle.UnpicklingError as error:
                found.put(Ended(WorkerLost(f"a worker process was killed while it wrote: {error}")))
                return
            found.put(value)
            if isinstance(value, Ended):
                return
