"""A store in a bucket of S3, or of a server that speaks its protocol.

A blob is an object, seen when all of it is there. What can change is written by conditional requests on
ETags; see `net.s3_blobs` for servers that ignore those. Whoever only reads does not wait for boto3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from buildstep.files import layout, remote
from buildstep.files.interface import Access, Item, Missing, ReadOnly, Versioned, checked, checked_under
from buildstep.files.parallel import parallel
from buildstep.net.http import Http
from buildstep.net.s3_blobs import BlobClient
from buildstep.net.s3_errors import S3Error
from buildstep.net.s3_reader import S3Reader

_PIECE = 8 << 20
"""Bytes of a range, of which several are fetched at once."""
_PIECES_AT_ONCE = 4
_TRIES = 3
_REFUSED = 403


class S3:
    """`s3://BUCKET[/PREFIX]`.

    Credentials and endpoint: see `net.s3.S3Client`.
    """

    scheme: ClassVar[str] = "s3"
    writable = True
    root = None
    at_once = 16

    def __init__(self, place: str, access: Access) -> None:
        http = Http(environ=access.environ, options=access.http, bus=access.bus)
        self._client = BlobClient(
            f"s3:{place}",
            http=http,
            endpoint=access.endpoint,
            at_once=self.at_once,
            probe=f"{layout.TEMPORARY}probe",
        )
        self._reader = S3Reader(f"s3:{place}", http=http, endpoint=access.endpoint)
        self.url = self._client.uri

    def interrupt(self) -> None:
        """Make reading calls of other threads fail soon, and all later calls."""
        self._reader.interrupt()

    # -- reading ---------------------------------------------------------------------------------------

    def exists(self, names: Collection[str]) -> set[str]:
        """See `Storage`."""
        wanted = [checked(name) for name in names]
        heads = parallel(self._reader.head, wanted, self.at_once)
        return {name for name, found in zip(wanted, heads, strict=True) if found is not None}

    def list(self, under: str) -> Iterator[Item]:
        """See `Storage`."""
        for info in self._reader.list(checked_under(under), flat=False):
            if not info.key.startswith(layout.TEMPORARY):
                yield Item(info.key, info.size, info.modified)

    def read(self, name: str, start: int = 0, count: int | None = None) -> bytes:
        """See `Storage`."""
        data = self._reader.read(checked(name), start, count)
        if data is None:
            raise self._missing(name)
        return data

    def fetch(self, name: str, target: Path) -> None:
        """See `Storage`. It comes in ranges, several at once."""
        info = self._reader.head(checked(name))
        if info is None:
            raise self._missing(name)
        with target.open("xb") as file:
            for data in parallel(
                lambda start: self.read(name, start, _PIECE), range(0, info.size, _PIECE), _PIECES_AT_ONCE
            ):
                file.write(data)

    def load(self, name: str) -> Versioned | None:
        """See `Storage`."""
        found = self._reader.load(checked(name))
        return None if found is None else Versioned(*found)

    def _missing(self, name: str) -> Missing:
        return Missing(f"{self.url} has no {name}")

    # -- writing ---------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes | Path) -> bool:
        """See `Storage`."""
        parsed = layout.parse(checked(name))
        named = parsed.digest if parsed and parsed.end in (layout.PLAIN, ".pack") else ""
        with self._writing():
            for _ in range(_TRIES):
                if self._client.swap(name, data, None, sha256=named):
                    return True
                if self._client.head(name) is not None:
                    return False
                # Of two that write it at the same moment, a store may refuse both.
        raise S3Error(f"{self.url}: another writer of {name} did not complete it", retryable=True)

    def spool(self) -> contextlib.AbstractContextManager[Path]:
        """See `Storage`."""
        return remote.spool()

    def delete(self, names: Iterable[str]) -> None:
        """See `Storage`."""
        with self._writing():
            self._client.delete_many([checked(name) for name in names])

    def swap(self, name: str, data: bytes | None, version: str | None) -> bool:
        """See `Storage`."""
        checked(name)
        with self._writing():
            if data is not None:
                return self._client.swap(name, data, version)
            if version is None:
                return self._client.head(name) is None
            return self._client.delete_if(name, version)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            if error.status != _REFUSED or error.server_code not in ("AccessDenied", "Forbidden", "403"):
                raise
            raise ReadOnly(error.message, hint=error.hint) from error
