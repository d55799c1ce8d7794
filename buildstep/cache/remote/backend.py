"""A store's storage as the shared cache uses it: every call counted, limited, and ended when it must be."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from buildstep.cache.remote.interface import Facts, Measured, Settings
from buildstep.errors import StoreError
from buildstep.events import Bus
from buildstep.files import open_storage
from buildstep.files.interface import Access, Item, Storage
from buildstep.net.request import HttpOptions

AT_ONCE = 8
_REGISTRY = "registry:"
_LIMITS = {"connect": 2.0, "response": 10.0, "idle": 5.0, "min_rate": 8192.0, "attempts": 2, "backoff": 0.05}
"""Of calls: a store that is slower than this is worth nothing, and a build does without it."""
_NONSENSE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    http.client.HTTPException,
)  # fmt: skip
"""What is raised for an answer of another form than it has to have. Anybody may have written what a store
says: it must end no build."""


class Backend:
    """The storage of a store. Calls may be made from several threads, and raise as `Storage` says."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        limits: dict[str, Any] = {**_LIMITS, **settings.http}
        options = HttpOptions.of(environ, **limits)
        self.storage: Storage = _storage(settings.url, environ, options)
        self.facts = Facts()
        self._guard = threading.Lock()
        self._moved = 0
        self._moving = 0.0
        self._latencies: list[float] = []

    @property
    def url(self) -> str:
        return self.storage.url

    def interrupt(self) -> None:
        """Make calls of other threads fail soon, and all later ones, where the storage can do that."""
        stop = getattr(self.storage, "interrupt", None)
        if stop is not None:
            stop()

    # -- calls -----------------------------------------------------------------------------------------

    def small(self, name: str, limit: int) -> bytes:
        """Return a small blob; a byte more than the limit where it is larger than that."""
        with self._counted():
            begun = time.monotonic()
            data = self.storage.read(name, 0, limit + 1)
        with self._guard:
            self._latencies.append(time.monotonic() - begun)
            self.facts.bytes_in += len(data)
        return data

    def range(self, name: str, start: int, count: int) -> bytes:
        """Return bytes of a blob; fewer where it ends."""
        with self._counted():
            data = self.storage.read(name, start, count)
        with self._guard:
            self.facts.bytes_in += len(data)
        return data

    def write(self, name: str, data: bytes | Path) -> bool:
        """Store a blob. False if there was one already."""
        with self._counted():
            written = self.storage.write(name, data)
        if written:
            size = len(data) if isinstance(data, bytes) else data.stat().st_size
            with self._guard:
                self.facts.bytes_out += size
        return written

    def exists(self, names: Collection[str]) -> set[str]:
        """Return those names that have a blob."""
        with self._counted(len(names)):
            return self.storage.exists(names)

    def list(self, under: str, most: int | None = None) -> list[Item]:
        """Return the blobs below a folder. most: so many of them, however many the store tells."""
        with self._counted():
            return list(itertools.islice(self.storage.list(under), most))

    def delete(self, names: Iterable[str]) -> None:
        with self._counted():
            self.storage.delete(names)

    @contextlib.contextmanager
    def _counted(self, calls: int = 1) -> Iterator[None]:
        with self._guard:
            self.facts.requests += calls
        try:
            yield
        except _NONSENSE as error:
            what = f"{type(error).__name__}: {error}"[:200]
            raise StoreError(f"{self.url} gave an answer that is none: {what}") from error

    # -- how fast it is --------------------------------------------------------------------------------

    def moved(self, size: int, seconds: float) -> None:
        """Note that so many bytes came in so much time, over all connections."""
        with self._guard:
            self._moved += size
            self._moving += seconds

    @property
    def measured(self) -> Measured:
        with self._guard:
            known = sorted(self._latencies)
            return Measured(
                rate=self._moved / self._moving if self._moving else 0.0,
                latency=known[len(known) // 2] if known else 0.0,
            )


def _storage(url: str, environ: Mapping[str, str], options: HttpOptions) -> Storage:
    if url.startswith(_REGISTRY):
        from buildstep.cache.remote.registry import RegistryStorage

        access = Access(environ=environ, bus=Bus(), http=options)
        return RegistryStorage(url.removeprefix(_REGISTRY), access)
    return open_storage(url, environ=environ, bus=Bus(), http=options)
