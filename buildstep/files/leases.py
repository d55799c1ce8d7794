"""Leases: who writes to a store, or reads from it, at the moment, so that nothing is deleted under them.

A lease is a name that can change, `leases/<id>`, with a JSON object: what for, where its process runs and
which it is, when it began, until when it is valid (seconds since the epoch), and `saw`: the generation of
`gc/condemned` that its owner read after the lease was there. It is renewed by a thread. One that is not is
over at that time, or at once where its process is known to be dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from buildstep.errors import StoreError
from buildstep.files.interface import Storage, Versioned
from buildstep.files.layout import LEASES
from buildstep.system.host import boot_id

TTL = 900.0
"""Seconds that a lease is valid. Clocks of machines that share a store may differ by less."""


class LeaseLost(StoreError):
    """Somebody ended our lease, as it was not renewed in time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseRecord:
    """What a lease says. what: for people; host: where; place: one start of a machine, and one space of
    process numbers on it; pid: the number, and born: when that process began, in ticks after that start.
    until: seconds since the epoch. saw: None until its owner has read what is condemned."""

    what: str
    host: str
    place: str
    pid: int
    born: int
    started: float
    until: float
    saw: int | None = None

    def __str__(self) -> str:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.started))
        return f"{self.what!r} on {self.host} (process {self.pid}, since {began} UTC)"

    @property
    def over(self) -> bool:
        """Whether its owner is dead, or has not renewed it in time."""
        if self.until < time.time():
            return True
        # Nothing can be said of a process elsewhere, nor where the kernel does not tell when one began.
        return bool(self.born) and self.place == _place() and _born(self.pid) != self.born


def _place() -> str:
    with contextlib.suppress(OSError):
        return f"{boot_id()} {os.stat('/proc/self/ns/pid').st_ino}"
    return ""


def _born(pid: int) -> int:
    """Return when a process began; 0 if there is none, or none that the kernel tells of (proc(5), stat)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    return 0


def parse(data: bytes) -> LeaseRecord:
    """Read a lease. Raises StoreError for what is none."""
    try:
        return LeaseRecord(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise StoreError(f"a lease of this store cannot be read: {error}") from error


class Lease:
    """A lease of ours. A context manager: it is made, renewed by a thread, and ended."""

    def __init__(self, storage: Storage, what: str, *, ttl: float = TTL) -> None:
        self.name = LEASES + secrets.token_hex(8)
        self._storage = storage
        self._ttl = ttl
        now = time.time()
        self._record = LeaseRecord(
            what=what, host=os.uname().nodename, place=_place(), pid=os.getpid(), born=_born(os.getpid()),
            started=now, until=now + ttl,
        )  # fmt: skip
        self._version: str | None = None
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._lost = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._write(self._record)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join()
        # One that cannot be ended ends by itself.
        with contextlib.suppress(StoreError):
            self._storage.swap(self.name, None, self._version)

    def saw(self, generation: int) -> None:
        """Write into the lease which generation of the condemned its owner has read. Raises LeaseLost."""
        with self._guard:
            self._write(replace(self._record, saw=generation))

    def renew(self) -> None:
        """Make the lease valid for its full time again. Raises LeaseLost if somebody has ended it."""
        with self._guard:
            if self._lost:
                raise lost(self.name)
            self._write(replace(self._record, until=time.time() + self._ttl))

    def _write(self, record: LeaseRecord) -> None:
        data = json.dumps(asdict(record)).encode()
        self._storage.swap(self.name, data, self._version)
        there = self._storage.load(self.name)
        # Not what swap says counts: a call that was repeated after a lost response fails, and was done.
        if there is None or there.data != data:
            self._lost = True
            raise lost(self.name)
        self._record, self._version = record, there.version

    def _keep(self) -> None:
        while not self._over.wait(self._ttl / 3):
            # A storage that cannot be reached now may be at the next time; `renew` says it at the end.
            with contextlib.suppress(StoreError):
                self.renew()


@contextlib.contextmanager
def reading(storage: Storage, what: str) -> Iterator[None]:
    """Keep all that is in a store from being deleted during the block, where we may tell it so.

    what: for people who look at the leases. The lease has seen nothing: a reader may be reading what was
    condemned before it began. Raises StoreError.
    """
    if not storage.writable:
        yield
        return
    with Lease(storage, what):
        yield


def lost(name: str) -> LeaseLost:
    """Return the error of somebody whose lease is not there any more."""
    return LeaseLost(
        f"the lease {name} of this store was ended by somebody",
        hint="was this process stopped for long, or is a clock wrong? try again",
        retryable=True,
    )


def is_over(storage: Storage, name: str) -> bool:
    """Tell whether a lease has been ended, or is over. name: of the lease. Raises StoreError."""
    there = storage.load(name)
    return there is None or parse(there.data).over


def whose(storage: Storage, name: str) -> str:
    """Say for a person whose lease this is. Raises StoreError."""
    there = storage.load(name)
    return f"the owner of {name}" if there is None else str(parse(there.data))


def living(storage: Storage, *, end: bool = True) -> Iterator[tuple[str, LeaseRecord]]:
    """Yield the leases that hold. end: end those that do not, so that their owners learn it.

    Raises StoreError.
    """
    for item in storage.list(LEASES):
        there = storage.load(item.name)
        if there is None:
            continue
        record = parse(there.data)
        if not record.over:
            yield item.name, record
        elif end and not storage.swap(item.name, None, there.version):
            again: Versioned | None = storage.load(item.name)  # renewed at this moment
            if again is not None:
                yield item.name, parse(again.data)
