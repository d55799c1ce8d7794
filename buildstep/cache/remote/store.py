"""The shared cache of a build: find records, fetch what they name, and put what was made.

No trouble with a store ends a build. `find` returns what it knows and `put` whether it could; what was wrong
is in `trouble`. Only `fetch` raises, as its caller has to make the thing itself then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from functools import partial
from pathlib import Path
from typing import Self

from buildstep.cache.remote import backend as storage
from buildstep.cache.remote import envelope, names
from buildstep.cache.remote import policy as policies
from buildstep.cache.remote.backend import Backend
from buildstep.cache.remote.calls import Calls
from buildstep.cache.remote.fetch import Fetch, Limits
from buildstep.cache.remote.interface import (
    Facts,
    Gone,
    Kind,
    Measured,
    Output,
    Record,
    Seed,
    Settings,
    Unusable,
    Wanted,
    is_scope,
)
from buildstep.cache.remote.keys import signers_of
from buildstep.cache.remote.known import Known
from buildstep.cache.remote.policy import Policy
from buildstep.cache.remote.prune import GRACE, Prune, Pruned
from buildstep.cache.remote.put import Upload
from buildstep.errors import StoreError, UsageError
from buildstep.events import Bus
from buildstep.files.interface import Missing
from buildstep.trust import dsse

MAIN = "main"
_MARK_SECONDS = 10.0


class SharedStore:
    """A store, for one build. Its methods may be called from several threads; `close` it."""

    def __init__(
        self, settings: Settings, backend: Backend, policy: Policy, signers: Sequence[dsse.Signs]
    ) -> None:
        self.settings = settings
        self.policy = policy
        self.trouble = ""
        """The first thing that was wrong with the store; empty if all is well."""
        self.troubles: list[str] = []
        self.broken = ""
        """The first thing that kept a look-up from an answer, whatever that would have been."""
        self.refused: dict[Wanted, str] = {}
        """Records that are there and do not count, and why."""
        self._backend = backend
        self._signers = signers
        self._calls = Calls(storage.AT_ONCE)
        self._known = Known.of(settings.state, backend.url)
        self._used: set[str] = set()
        self._found: list[tuple[str, Record]] = []
        self._guard = threading.Lock()

    @classmethod
    def open(cls, settings: Settings, environ: Mapping[str, str], bus: Bus) -> Self:
        """Return a store; nothing is asked of it yet.

        Raises UsageError, SpecError, SigningError, ToolMissing for wrong settings, policies and keys.
        """
        if not is_scope(settings.scope):
            raise UsageError(f"{settings.scope!r} is no name of a scope", hint="such as main or branch/fix-1")
        backend = Backend(settings, environ)
        policy = _policy_of(settings, backend, environ)
        return cls(settings, backend, policy, signers_of(settings, environ, bus))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End what still runs."""
        self._known.is_fast(self._backend.measured)
        self._known.save()
        self._calls.close()
        self._backend.interrupt()

    @property
    def url(self) -> str:
        return self._backend.url

    @property
    def writable(self) -> bool:
        """Whether records can be put into it at all."""
        return self._backend.storage.writable

    @property
    def facts(self) -> Facts:
        return self._backend.facts

    @property
    def measured(self) -> Measured:
        """How fast the store is: in this build, else in earlier ones on this machine."""
        now, known = self._backend.measured, self._known.measured
        return Measured(now.rate or known.rate, now.latency or known.latency)

    # -- finding ---------------------------------------------------------------------------------------

    def find(self, wanted: Iterable[Wanted], deadline: float = 0.3) -> dict[Wanted, Record]:
        """Return the records that count, of those that are wanted; all are asked for at once.

        deadline: seconds from now, after which what has not come is a miss. Raises nothing.
        """
        begun = time.monotonic()
        scopes = tuple(dict.fromkeys((self.settings.scope, MAIN)))
        asked = {
            (item, scope): self._calls.start(lambda item=item, scope=scope: self._record(scope, item))  # type: ignore[misc]
            for item in dict.fromkeys(wanted)
            for scope in scopes
        }
        found: dict[Wanted, Record] = {}
        for (item, scope), future in asked.items():
            record = self._result(item, future, begun, deadline)
            if record is not None:
                found.setdefault(item, record)
                self._found.append((scope, record))
        for item in found:  # what lies in another scope is in nobody's way
            self.refused.pop(item, None)
        with self._guard:
            self.facts.hits += len(found)
            self.facts.misses += len({item for item, _ in asked}) - len(found)
            self.facts.seconds += time.monotonic() - begun
        return found

    def _result(
        self, wanted: Wanted, future: Future[Record | None], begun: float, deadline: float
    ) -> Record | None:
        try:
            return future.result(max(0.0, begun + deadline - time.monotonic()))
        except NotYet:
            future.cancel()
            self.broken = self.broken or f"it did not answer within {deadline:g} s"
            self._note(f"{self.url} did not answer in time")
        except (StoreError, OSError) as error:
            if isinstance(error, Unusable):
                self.refused.setdefault(wanted, error.message)
            else:
                self.broken = self.broken or str(error)
            self._note(str(error))
        return None

    def _record(self, scope: str, wanted: Wanted) -> Record | None:
        """Return a record that counts; None if there is none. Raises Unusable, StoreError."""
        name = names.record_name(scope, wanted)
        if kept := self._known.record(scope, wanted):
            try:
                return self._used_now(name, self._counting(kept, scope, wanted))
            except Unusable:
                self._known.keep_record(scope, wanted, b"")
        try:
            data = self._backend.small(name, envelope.LARGEST)
        except Missing:
            return None
        try:
            record = self._counting(data, scope, wanted)
        except Unusable as error:
            raise Unusable(f"{name} of {self.url}: {error.message}") from error
        self._known.keep_record(scope, wanted, data)
        return self._used_now(name, record)

    def _used_now(self, name: str, record: Record) -> Record:
        with self._guard:
            self._used.add(name)
        return record

    def _counting(self, data: bytes, scope: str, wanted: Wanted) -> Record:
        """Return the record of an envelope if it counts. Raises Unusable."""
        sealed = envelope.parse(data)
        record = envelope.record_in(sealed, scope, wanted)
        return envelope.with_signer(record, self.policy.signer_of(sealed, record))

    def latest(self, kind: Kind, slot: str, deadline: float = 0.3) -> Record | None:
        """Return the newest record of a slot, for whoever wants to know why there is none of a key; None
        where none is found in so many seconds. Raises nothing."""
        asked = Record(kind=kind, key="", slot=slot)
        until = time.monotonic() + deadline
        job = Upload(self._backend, self._calls, self._known, (), self._counting, until, ())
        for scope in dict.fromkeys((self.settings.scope, MAIN)):
            future = self._calls.start(lambda scope=scope: job.latest(asked, scope))  # type: ignore[misc]
            try:
                if (found := future.result(max(0.0, until - time.monotonic()))) is not None:
                    return found
            except (StoreError, OSError, NotYet):
                return None
        return None

    def would_count(self, record: Record) -> str:
        """Return why a record that this machine writes would not count for it; empty if it would."""
        sealed = envelope.parse(envelope.dumps(record, record.scope, self._signers))
        try:
            self.policy.signer_of(sealed, record)
        except Unusable as error:
            return error.message
        return ""

    # -- fetching --------------------------------------------------------------------------------------

    def fetch(
        self,
        output: Output,
        target: Path,
        *,
        deadline: float = float("inf"),
        seeds: Sequence[Path | Seed] = (),
        progress: Callable[[int], None] | None = None,
        stopped: threading.Event | None = None,
    ) -> None:
        """Write an output of a record that was found to a new file, every byte of it verified.

        deadline: seconds from now. seeds: files here that may have parts of it. progress: is told of bytes
        that came. stopped: set it in another thread to give up. Raises Gone (the record is a miss then),
        Unusable, TooSlow, Stopped, StoreError, OSError; then there is no file.
        """
        begun = time.monotonic()
        limits = Limits(begun + deadline, stopped or threading.Event(), progress or (lambda _count: None))
        job = Fetch(self._backend, self._calls, self._known, output, _seeds(seeds), limits)
        try:
            self._known.saw(job.to(target))
        except StoreError as error:
            self._note(error.message)
            if isinstance(error, Gone | Unusable):
                self._forget(output)
            raise
        finally:
            for text in job.notes:
                self._note(text)
            with self._guard:
                self.facts.seconds += time.monotonic() - begun

    def _forget(self, output: Output) -> None:
        """Keep no record of an output that cannot be had: the next build asks the store for it again."""
        for scope, record in self._found:
            if output in record.outputs:
                self._known.keep_record(scope, record.wanted, b"")

    # -- putting ---------------------------------------------------------------------------------------

    def put(
        self,
        record: Record,
        files: Mapping[str, Path | bytes],
        *,
        deadline: float = 600.0,
        seeds: Sequence[Path | Seed] = (),
        doubted: bool = False,
    ) -> bool:
        """Store a record and the files of its outputs, by their names; the record comes last.

        Return whether the store has such a record now: this one, or one that was there and counts. deadline:
        seconds from now. seeds: files here that may be the outputs of the last record of its slot. doubted:
        what is there of it came damaged, or not at all: it is looked at, and replaced where it is not sound.
        Raises nothing for trouble with the store, ValueError for files that are not the outputs' own.
        """
        begun = time.monotonic()
        try:
            upload = Upload(
                self._backend, self._calls, self._known, self._signers, self._counting, begun + deadline,
                _seeds(seeds), doubted,
            )  # fmt: skip
            runner = Calls(1)
            future = runner.start(partial(upload.put, record, self.settings.scope, files))
            runner.close()
            return future.result(max(0.0, deadline))
        except NotYet:
            # Whatever it waits for is given up, and so is all that somebody still wants of the store.
            self._note(f"the upload to {self.url} took more than {deadline:.3g} s")
            self._backend.interrupt()
            return False
        except (StoreError, OSError) as error:
            self._note(str(error))
            return False
        finally:
            with self._guard:
                self.facts.seconds += time.monotonic() - begun

    # -- keeping it small ------------------------------------------------------------------------------

    def mark_used(self) -> None:
        """Mark the records that this build found as used, once a day each, so that a prune leaves them.

        Call it when the build is done: it writes to the store. Raises nothing.
        """
        if not self._backend.storage.writable:
            return
        day = time.strftime("%Y%m%d", time.gmtime())
        with self._guard:
            marks = {names.used_name(day, name) for name in self._used} - self._known.touched.keys()
        waiting = {name: self._calls.start(partial(self._backend.write, name, b"")) for name in marks}
        for name, future in waiting.items():
            try:
                future.result(_MARK_SECONDS)
                self._known.is_used([name])
            except (StoreError, OSError, NotYet) as error:
                self._note(str(error) or f"{self.url} took no mark in time")
                return

    def prune(
        self, *, older_than: float | None = None, max_size: int | None = None, grace: float = GRACE
    ) -> Pruned:
        """Remove records that nobody used for so many seconds, or that are too many bytes, and bytes that no
        record has named for `grace` seconds. Raises StoreError, Unlistable, ReadOnly."""
        return Prune(self._backend, self._calls, older_than, max_size, grace).run()

    def _note(self, text: str) -> None:
        with self._guard:
            self.trouble = self.trouble or text
            if text not in self.troubles:
                self.troubles.append(text)


def _seeds(given: Sequence[Path | Seed]) -> list[Seed]:
    return [one if isinstance(one, Seed) else Seed(one) for one in given]


def _policy_of(settings: Settings, backend: Backend, environ: Mapping[str, str]) -> Policy:
    if settings.trust not in ("policy", "release"):
        raise UsageError(f"{settings.trust!r} is no kind of trust", hint="policy or release")
    release = settings.trust == "release"
    if settings.policy is not None:
        return policies.load(settings.policy, environ, release=release)
    if not release and backend.storage.root is not None and backend.storage.writable:
        return policies.OWN_DIRECTORY
    return Policy(release=release)
