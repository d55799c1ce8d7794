"""A store in memory, and actors whose calls of it a test lets pass one by one."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

from buildstep.files.interface import Item, Missing, Versioned

Hook = Callable[[str], None]
"""Called before each call of a storage, with its name."""


class Blob(NamedTuple):
    data: bytes
    modified: float
    version: str


class Memory:
    """A `Storage` in memory. Every call is one indivisible step, as a storage promises for each name.

    before: is called first, and may raise. clock: gives the time of what is written.
    """

    scheme: ClassVar[str] = "memory"
    writable = True
    root: Path | None = None
    at_once = 1

    def __init__(self, before: Hook | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.url = "memory:"
        self.blobs: dict[str, Blob] = {}
        self.clock = clock
        self._before = before or (lambda _call: None)
        self._numbers = itertools.count()

    def seen_by(self, before: Hook) -> Memory:
        """Return the same store as another one sees it, whose calls call this first."""
        other = Memory(before, clock=self.clock)
        other.blobs, other._numbers = self.blobs, self._numbers
        return other

    def put(self, name: str, data: bytes, *, modified: float | None = None) -> None:
        """Put a blob there, whatever was there."""
        when = self.clock() if modified is None else modified
        self.blobs[name] = Blob(data, when, str(next(self._numbers)))

    def age(self, seconds: float) -> None:
        """Make all that is stored older."""
        for name, blob in self.blobs.items():
            self.blobs[name] = blob._replace(modified=blob.modified - seconds)

    def exists(self, names: Collection[str]) -> set[str]:
        self._before("exists")
        return {name for name in names if name in self.blobs}

    def list(self, under: str) -> Iterator[Item]:
        self._before("list")
        found = [
            Item(name, len(blob.data), blob.modified)
            for name, blob in self.blobs.items()
            if name.startswith(under)
        ]
        yield from found

    def read(self, name: str, start: int = 0, count: int | None = None) -> bytes:
        self._before("read")
        if name not in self.blobs:
            raise Missing(f"{self.url} has no {name}")
        data = self.blobs[name].data
        begin = max(0, len(data) + start) if start < 0 else start
        return data[begin : None if count is None else begin + count]

    def fetch(self, name: str, target: Path) -> None:
        data = self.read(name)
        with target.open("xb") as stream:
            stream.write(data)

    def write(self, name: str, data: bytes | Path) -> bool:
        self._before("write")
        if name in self.blobs:
            return False
        self.put(name, data.read_bytes() if isinstance(data, Path) else data)
        return True

    @contextmanager
    def spool(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as path:
            yield Path(path)

    def delete(self, names: Iterable[str]) -> None:
        for name in list(names):
            self._before("delete")
            self.blobs.pop(name, None)

    def load(self, name: str) -> Versioned | None:
        self._before("load")
        blob = self.blobs.get(name)
        return None if blob is None else Versioned(blob.data, blob.version)

    def swap(self, name: str, data: bytes | None, version: str | None) -> bool:
        self._before("swap")
        there = self.blobs.get(name)
        if (there.version if there else None) != version:
            return False
        if data is None:
            self.blobs.pop(name, None)
        else:
            self.put(name, data)
        return True


class Killed(BaseException):
    """What a call of a storage raises in an actor that was killed: nothing that it does has an effect."""


class Actor:
    """A function in a thread of its own that waits before each call of the storage until it may go on.

    job: is given the storage as this actor sees it.
    """

    def __init__(self, memory: Memory, job: Callable[[Memory], None]) -> None:
        self.done = False
        self.killed = False
        self.error: BaseException | None = None
        self._go = threading.Semaphore(0)
        self._came = threading.Semaphore(0)
        self._storage = memory.seen_by(self._wait)
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()
        self._came.acquire()

    def _run(self, job: Callable[[Memory], None]) -> None:
        try:
            self._wait("start")
            job(self._storage)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        self.done = True
        self._came.release()

    def _wait(self, _call: str) -> None:
        if threading.current_thread() is not self._thread:
            return
        if not self.killed:
            self._came.release()
            self._go.acquire()
        if self.killed:
            raise Killed

    def pause(self) -> None:
        """Let the others go on, as a sleep of this actor would."""
        self._wait("pause")

    def mine(self) -> bool:
        """Tell whether this is called by the actor."""
        return threading.current_thread() is self._thread

    def step(self) -> None:
        """Let it make one call, and what follows up to the next one."""
        if not self.done:
            self._go.release()
            self._came.acquire()

    def finish(self, limit: int = 100_000) -> None:
        """Let it go on to its end."""
        for _ in range(limit):
            if self.done:
                return
            self.step()
        raise AssertionError("an actor does not end")

    def kill(self) -> None:
        """End it before its next call."""
        if not self.done:
            self.killed = True
            self._go.release()
            self._came.acquire()
            self._thread.join()
