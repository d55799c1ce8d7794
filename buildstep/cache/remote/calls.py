"""Calls made at once, in threads that nobody has to wait for.

A thread that waits for a server which never answers must keep neither a build nor its process from ending:
the threads are daemons, and whoever waits for a call says how long.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Calls:
    """Makes calls, so many at once. No thread is started before there is something to do."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._threads = 0
        self._pending = 0

    def start(self, call: Callable[[], T]) -> Future[T]:
        """Make a call in a thread, in the order in which calls come; return where its result will be."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001  (raised again by whoever asks for the result)
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._guard:
            self._pending += 1
            if self._threads < min(self._at_once, self._pending):
                self._threads += 1
                threading.Thread(target=self._work, name="shared-cache", daemon=True).start()
        self._jobs.put(run)
        return future

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with contextlib.suppress(Exception):
                job()
            del job  # what it holds may be large
            with self._guard:
                self._pending -= 1

    def close(self) -> None:
        """Let the threads end, once they have nothing to do. No call may be started any more."""
        with self._guard:
            for _ in range(self._threads):
                self._jobs.put(None)
