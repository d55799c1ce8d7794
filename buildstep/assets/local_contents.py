"""Take archives from a content store nearby instead of the network: by their sha256, whatever their names.

A content store holds each content once (`buildstep.files`). Whoever puts a directory of assets into one with
`buildstep files put`, such as the image of a host that is set up again, has their archives in it.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar

from buildstep.assets.interface import Asset, AssetStore, Details, Incoming
from buildstep.assets.names import Name
from buildstep.errors import StoreError
from buildstep.events import Bus
from buildstep.files.content import ContentStore


class _Local:
    """An archive from the content store. See `Incoming`."""

    def __init__(self, details: Details, stream: IO[bytes]) -> None:
        self.details = details
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


class LocalContents:
    """An `AssetStore` whose archives come from a content store where that has them; all else is of `inner`.

    spool: a directory with room for archives. A content store that fails is told of once, and done without.
    """

    scheme: ClassVar[str] = "contents"

    def __init__(self, inner: AssetStore, contents: ContentStore, bus: Bus, spool: Path) -> None:
        self._inner = inner
        self._contents = contents
        self._bus = bus
        self._spool = spool
        self._failed = False
        self._guard = threading.Lock()

    @property
    def url(self) -> str:
        """Of the store of assets."""
        return self._inner.url

    @property
    def at_once(self) -> int:
        """See `AssetStore`."""
        return self._inner.at_once

    @contextlib.contextmanager
    def open(self, name: Name) -> Iterator[Incoming]:
        """See `AssetStore`. The store is asked for the details in any case: only it says what is wanted."""
        with self._inner.open(name) as incoming, contextlib.ExitStack() as stack:
            yield self._found(incoming.details, stack) or incoming

    def _found(self, details: Details, stack: contextlib.ExitStack) -> Incoming | None:
        if not details.sha256 or self._failed:
            return None
        try:
            with self._guard:
                if not self._contents.has([details.sha256]):
                    return None
            stream = stack.enter_context(tempfile.TemporaryFile(dir=self._spool))  # noqa: SIM115
            self._contents.write_to(details.sha256, stream.fileno())
        except (StoreError, OSError) as error:
            self._failed = True
            self._bus.note(f"nothing is taken from {self._contents.storage.url}: {error}", level="warning")
            return None
        stream.seek(0)
        return _Local(details, stream)

    # -- what the other store does

    def list(self, service: str = "") -> Iterator[Asset]:
        """See `AssetStore`."""
        return self._inner.list(service)

    def details(self, name: Name) -> Details:
        """See `AssetStore`."""
        return self._inner.details(name)

    def put(self, name: Name, path: Path, details: Details, *, replace: bool = False) -> bool:
        """See `AssetStore`."""
        return self._inner.put(name, path, details, replace=replace)

    def delete(self, name: Name) -> None:
        """See `AssetStore`."""
        self._inner.delete(name)

    def make_index(self) -> int:
        """See `AssetStore`."""
        return self._inner.make_index()

    def interrupt(self) -> None:
        """See `AssetStore`."""
        self._inner.interrupt()

    def finish(self) -> None:
        """See `AssetStore`."""
        self._inner.finish()
