"""The shared cache of one build: what it is asked for, how long that may take, and what it brought.

No trouble with it ends a build, unless that is demanded: there is a note, and things are made here. What a
look-up may take is in the settings; a fetch is given up as soon as it would take longer than to make the
thing.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from buildstep.cache.shared_breaker import Breaker
from buildstep.errors import BuildstepError, SharedCacheError, StoreError
from buildstep.spec.shared_cache import SharedCache
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.cache.remote.interface import Kind, Output, Record, Seed, Wanted
    from buildstep.cache.remote.store import SharedStore
    from buildstep.events import Bus

_FIRST: Final = 0.7
"""Seconds that the first small file may take: by it the speed is known, before a large one is begun."""
_PATIENCE: Final = 1.5
"""Seconds of a fetch after which it is looked at how long the rest will take."""
_FIRST_PIECE: Final = 5.0
"""Seconds after which a fetch of which nothing has come is given up at the latest."""
_TICK: Final = 0.1
WRONG: Final = (
    BuildstepError, OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
)  # fmt: skip
"""What is raised for something of a shared cache that is not as it has to be: it is made here then."""


CREDENTIALS: Final = re.compile(r"://[^/\s]*@")
"""In an address that says who calls. Records, which all who can read a store see, have none."""


def record_key(kind: Kind, inputs: Mapping[str, Any]) -> Wanted:
    """Return the kind and the key of the record of these inputs."""
    from buildstep.cache.remote.names import shared_key

    return kind, shared_key(kind, inputs)


def text_of(error: BaseException) -> str:
    """Return what such an error says."""
    return error.message if isinstance(error, BuildstepError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """What the cache gave. size: bytes that came for it; seconds: that it took; cost: to make it."""

    size: int
    seconds: float
    cost: float

    @property
    def saved(self) -> float:
        return max(0.0, self.cost - self.seconds)

    def __str__(self) -> str:
        return f"shared ({size_text(self.size)}, {self.seconds:.1f} s, saves {self.saved:.0f} s)"


class Shared:
    """A shared cache, for one build. Close it when nothing more is fetched.

    keep: note in the pool what is known of the store; not for a plan, which changes nothing. Raises
    UsageError, SpecError, SigningError and ToolMissing for wrong settings, policies and keys.
    """

    def __init__(
        self,
        settings: SharedCache,
        state: Path,
        environ: Mapping[str, str],
        bus: Bus,
        *,
        keep: bool = True,
    ) -> None:
        self.settings, self.environ = settings, environ
        self.hits: dict[str, Hit] = {}
        """What it gave, by what that is: `base`, `packages`."""
        self.hits_of: list[Wanted] = []
        """The records of these."""
        self.missing: dict[str, str] = {}
        """Why it did not give something, by what that is."""
        self.tried: set[Wanted] = set()
        """Records whose outputs were fetched, or could not be: nobody tries it twice."""
        self.spoiled: set[Wanted] = set()
        """Records whose bytes came damaged, or were gone: they are put there again."""
        self.layer: Wanted | None = None
        """The record of the layer with the packages that a build has to take, which settles it alone."""
        self.thorough = False
        """Whether all is to be uploaded that is not there, whatever is known of that."""
        self.trouble = ""
        """Why it is not used any more; empty while it is."""
        self.found: Mapping[str, Any] = {}
        """What was looked up ahead (`ahead`), for whoever knows what that is."""
        self._bus, self._state = bus, state
        self._breaker = Breaker(state, settings.url, keep=keep)
        self._known: dict[Wanted, Record | None] = {}
        self._refused: dict[Wanted, str] = {}
        self._ahead: threading.Thread | None = None
        self._guard = threading.RLock()
        self._told = self._told_refused = self._closed = False
        self._store: SharedStore = open_store(settings, state if keep else None, environ, bus)
        if reason := self._breaker.reason():
            self.trouble = reason

    # -- looking up ------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether it is asked at all."""
        return not self.trouble

    @property
    def store(self) -> SharedStore:
        return self._store

    def ahead(self, look: Callable[[], Mapping[str, Any]]) -> None:
        """Look something up beside other work; `settled` waits for it."""

        def run() -> None:
            try:
                self.found = look()
            except WRONG as error:
                self.missing.setdefault("base", text_of(error))

        if self.usable:
            self._ahead = threading.Thread(target=run, name="shared-cache", daemon=True)
            self._ahead.start()

    def settled(self) -> Mapping[str, Any]:
        """Return what was looked up ahead, and tell of trouble. Raises SharedCacheError where the cache is
        demanded and cannot be used."""
        if self._ahead is not None:
            self._ahead.join(10 * self.settings.look_up + 2.0)
            self._ahead = None
        self._tell()
        return self.found

    def find(self, wanted: Iterable[Wanted]) -> dict[Wanted, Record]:
        """Return the records that count, of those that are wanted; those that were looked up before are not
        asked for again."""
        names = list(dict.fromkeys(wanted))
        if self.usable and (new := [name for name in names if name not in self._known]):
            found = self._store.find(new, self.settings.look_up)
            with self._guard:
                self._known |= {name: found.get(name) for name in new}
            if self._store.broken:
                self._fail(self._store.broken)
            with self._guard:
                self._refused |= {name: why for name in new if (why := self._store.refused.get(name))}
        return {name: record for name in names if (record := self._known.get(name)) is not None}

    def why(self, name: Wanted, otherwise: str) -> str:
        """Return why there is no record: one that does not count, or what else is the reason."""
        return self._refused.get(name) or otherwise

    def latest(self, kind: Kind, slot: str) -> Record | None:
        """Return the newest record of a slot, to tell why there is none of a key."""
        return self._store.latest(kind, slot, self.settings.look_up) if self.usable else None

    # -- fetching --------------------------------------------------------------------------------------

    def fetch(self, output: Output, target: Path, *, cost: float, seeds: Sequence[Seed] = ()) -> bool:
        """Write an output to a new file. False where that cannot be, or would take longer than `cost`, the
        seconds that it takes to make what it is of. seeds: files here that may have parts of it."""
        if not self.usable:
            return False
        stopped, came = threading.Event(), _Came(output.size)
        watch = threading.Thread(target=came.watch, args=(stopped, cost), daemon=True)
        watch.start()
        try:
            first = _FIRST if output.size <= _SMALL else float("inf")
            limit = min(max(cost, _FIRST), first)
            self._store.fetch(output, target, deadline=limit, seeds=seeds, progress=came.add, stopped=stopped)
        except (BuildstepError, OSError) as error:
            self._failed_fetch(output, came, error)
            return False
        finally:
            came.done.set()
            watch.join()
        return True

    def fetch_all(
        self,
        record: Record,
        paths: Mapping[str, Path],
        largest: Mapping[str, int],
        seeds: Sequence[Seed] = (),
    ) -> bool:
        """Write outputs of a record to new files, in this order; False where one did not come.

        largest: bytes that some of them may have; seeds: see `fetch`. Raises StoreError for a record without
        one of them, or with one that is larger.
        """
        for name, path in paths.items():
            output = record.output(name)
            if output is None or output.size > largest.get(name, output.size):
                raise StoreError(f"its record has no {name} that can be used")
            if not self.fetch(output, path, cost=record.seconds, seeds=seeds):
                return False
        return True

    def _failed_fetch(self, output: Output, came: _Came, error: BuildstepError | OSError) -> None:
        """Say why something did not come; a store that does not give what it has is not asked any more."""
        from buildstep.cache.remote.interface import Gone, Stopped, TooSlow, Unusable

        text = error.message if isinstance(error, BuildstepError) else str(error)
        if isinstance(error, Gone | Unusable):
            self._bus.note(f"{text}; it is made here", level="warning")
            with self._guard:
                known = self._known.items()
                self.spoiled |= {name for name, there in known if there and output in there.outputs}
            return
        if isinstance(error, Stopped | TooSlow):
            text = f"it is too slow: {size_text(came.size)} of {output.name} in {came.seconds:.1f} s"
        self._fail(text)
        self._tell()

    def hit(self, name: str, hit: Hit, record: Record) -> None:
        """Note what the cache gave."""
        self.hits[name] = hit
        self.hits_of.append(record.wanted)
        self._bus.note(f"{name}: {hit}")

    def refused(self, name: str, why: str) -> None:
        """Note that something that the cache gave is not used."""
        self.missing[name] = why
        self._bus.note(f"the {name} of the shared cache is not used: {why}; it is made here", level="warning")

    # -- trouble and the end ---------------------------------------------------------------------------

    def _fail(self, why: str) -> None:
        with self._guard:
            if self.trouble:
                return
            self.trouble = why
        self._breaker.failed(why)

    def _tell(self) -> None:
        """Tell of trouble, once."""
        if self._refused and not self._told_refused:
            self._told_refused = True
            rest = len(self._refused) - 1
            more = f"; and so {plural(rest, 'other')}" if rest else ""
            self._bus.announce(f"{next(iter(self._refused.values()))}: it is not used{more}", level="warning")
        if not self.trouble or self._told:
            return
        self._told = True
        if self.settings.required:
            raise SharedCacheError(
                f"the shared cache {self.settings.url} cannot be used: {self.trouble}",
                hint="`buildstep cache doctor` measures it; without --cache-required a build does without it",
            )
        # The log of the build may begin later.
        text = f"the shared cache {self.settings.url} is not used: {self.trouble}"
        self._bus.announce(text, level="warning")

    def close(self) -> None:
        """End what still runs, and count what it was good for."""
        if self._closed:
            return
        self._closed = True
        facts = self._store.facts
        self._store.close()
        if self.usable and facts.requests:
            self._breaker.worked()
        counts = {
            "shared_hits": len(self.hits),
            "shared_requests": facts.requests,
            "shared_bytes_in": facts.bytes_in,
            "shared_seconds": round(facts.seconds),
            "shared_saved_seconds": round(sum(hit.saved for hit in self.hits.values())),
        }
        for name, amount in counts.items():
            if amount or name == "shared_hits":
                self._bus.count(name, amount)


_SMALL: Final = 1 << 20


class _Came:
    """How much of a file came, and whether to wait for the rest."""

    def __init__(self, total: int) -> None:
        self.size, self.total = 0, total
        self.begun = time.monotonic()
        self.done = threading.Event()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def add(self, count: int) -> None:
        self.size += count

    def watch(self, stopped: threading.Event, cost: float) -> None:
        """Give up as soon as the rest would take longer than to make the whole."""
        while not self.done.wait(_TICK):
            # Large pieces come side by side, and late: until then only what is small is known to be quick.
            late = max(_PATIENCE, min(_FIRST_PIECE, cost / 4))
            if self.seconds < (late if self.size < self.total / 10 else _PATIENCE):
                continue
            left = self.seconds * (self.total - self.size) / self.size if self.size else float("inf")
            if left > cost:
                stopped.set()
                return


def open_store(
    settings: SharedCache, state: Path | None, environ: Mapping[str, str], bus: Bus
) -> SharedStore:
    """Open the store of a shared cache; nothing is asked of it yet. Raises what `SharedStore.open` does."""
    from buildstep.cache.remote.interface import Settings
    from buildstep.cache.remote.store import SharedStore

    return SharedStore.open(
        Settings(
            url=settings.url,
            scope=settings.scope,
            policy=Path(settings.policy) if settings.policy else None,
            key=Path(settings.key) if settings.key else None,
            trust=settings.trust,
            state=state,
        ),
        environ,
        bus,
    )
