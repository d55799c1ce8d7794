"""Worker processes that do many tasks of one kind, whose results come in the order of the tasks.

A worker is a fork of this process (see `system.workers`): it knows all that was in memory when the crew was
put together, so a task is a number, or a few kilobytes. There are no threads here or there: whoever gives
tasks and takes results also moves what is on its way. The workers end with the block, with this process, and
not by a signal that is meant for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from buildstep.system.workers import (
    Ended,
    WorkerLost,
    die_with_parent,
    fork,
    how_it_ended,
    pickled,
    unpickled,
    whole,
)

_LENGTH = struct.Struct("!Q")
_RECEIVE = 1 << 18
_PREFERRED = 300
"""What is added to a worker's score for who is killed where memory runs out: where it is a worker, the error
can be told."""


class Crew:
    """Workers for one kind of task. Use it as a context manager.

    job: does a task, in a worker; what it returns or raises must be something that pickle takes. count: of
    workers; with one there is no other process, and the tasks are done when their results are asked for.
    ahead: tasks that a worker is given at a time.
    """

    def __init__(self, job: Callable[[Any], Any], count: int, *, ahead: int = 1) -> None:
        self._job = job
        self._count = count
        self._ahead = ahead
        self._workers: dict[int, _Worker] = {}
        self._poll = select.poll()
        self._waiting: deque[tuple[int, Any]] = deque()
        self._given = self._taken = 0
        self._results: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self._count > 1:
            try:
                for _ in range(self._count):
                    worker = _Worker(self._job, [other.channel for other in self._workers.values()])
                    self._workers[worker.channel.fileno()] = worker
                    self._poll.register(worker.channel, select.POLLIN)
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()

    def give(self, task: Any) -> None:
        """Add a task; a worker gets it now, if one has room."""
        self._waiting.append((self._given, task))
        self._given += 1
        if self._workers:
            self._move(0)

    def ready(self) -> Iterator[Any]:
        """Yield the results that are there already, in the order of the tasks. Raises as `results`."""
        if self._workers:
            self._move(0)
        while self._taken in self._results:
            yield self._take()

    def results(self) -> Iterator[Any]:
        """Yield the results of all tasks given, in their order; waits for them.

        Raises what a task raised, in its place; WorkerLost.
        """
        while self._taken < self._given:
            if not self._workers:
                number, task = self._waiting.popleft()
                self._results[number] = self._job(task)
            while self._taken not in self._results:
                self._move(None)
            yield self._take()

    def do(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Give these tasks, and yield their results as `results` does."""
        for task in tasks:
            self.give(task)
        yield from self.results()

    def _take(self) -> Any:
        result = self._results.pop(self._taken)
        self._taken += 1
        if isinstance(result, Ended):
            result.check()
        return result

    def _move(self, timeout: int | None) -> None:
        """Hand out tasks, send and receive what can be; wait for something to come (ms, None: for ever)."""
        for worker in sorted(self._workers.values(), key=lambda worker: len(worker.tasks)):
            while self._waiting and len(worker.tasks) < self._ahead:
                worker.add(*self._waiting.popleft())
        for fd, worker in self._workers.items():
            self._poll.modify(fd, select.POLLIN | (select.POLLOUT if worker.outgoing else 0))
        moved = self._poll.poll(timeout)
        for fd, events in moved:
            worker = self._workers[fd]
            if events & select.POLLOUT:
                worker.send()
            if events & ~select.POLLOUT:
                self._results.update(worker.receive())
        if moved and self._waiting:
            self._move(0)


class _Worker:
    """One worker, seen from here."""

    def __init__(self, job: Callable[[Any], Any], others: list[socket.socket]) -> None:
        """others: channels of other workers, which end only when nobody else has them."""
        self.channel, there = socket.socketpair()
        self.tasks: deque[int] = deque()
        self.outgoing = bytearray()
        self._incoming = bytearray()
        parent = os.getpid()
        self._pid = fork()
        if self._pid == 0:
            status = 1
            try:
                for channel in (self.channel, *others):
                    channel.close()
                _prepare(parent)
                _work(job, there)
                status = 0
            finally:
                os._exit(status)
        there.close()
        self.channel.setblocking(False)

    def add(self, number: int, task: Any) -> None:
        self.tasks.append(number)
        body = pickled(task)
        self.outgoing += _LENGTH.pack(len(body)) + body
        self.send()

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self.outgoing:
                del self.outgoing[: self.channel.send(self.outgoing)]

    def receive(self) -> Iterator[tuple[int, Any]]:
        """Yield the results that have come, each with the number of its task. Raises WorkerLost."""
        found = self._incoming
        try:
            data = self.channel.recv(_RECEIVE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            raise self._lost()
        found += data
        begin = 0
        while len(found) >= begin + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(found, begin)
            end = begin + _LENGTH.size + length
            if len(found) < end:
                break
            with memoryview(found) as view, view[begin + _LENGTH.size : end] as body:
                yield self.tasks.popleft(), unpickled(body)
            begin = end
        del found[:begin]

    def _lost(self) -> WorkerLost:
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return WorkerLost(f"a worker process {how_it_ended(status)}", hint=_WHY)

    def end(self) -> None:
        self.channel.close()
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


_WHY = "was memory short? fewer workers take less: BUILDSTEP_WORKERS"


# -- in a worker ------------------------------------------------------------------------------------------


def _prepare(parent: int) -> None:
    """Make this process a worker: signals for the build are for its parent, who then ends it."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_IGN)
    die_with_parent(parent)
    with contextlib.suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+b", 0) as stream:
        stream.write(b"%d" % min(1000, int(stream.read()) + _PREFERRED))


def _work(job: Callable[[Any], Any], channel: socket.socket) -> None:
    """Do tasks until nobody gives any more."""
    with channel, channel.makefile("rb") as stream, contextlib.suppress(BrokenPipeError, ConnectionError):
        while head := stream.read(_LENGTH.size):
            task = unpickled(stream.read(_LENGTH.unpack(head)[0]))
            try:
                body = pickled(job(task))
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the result is taken
                body = pickled(whole(Ended(error)))
            channel.sendall(_LENGTH.pack(len(body)) + body)
