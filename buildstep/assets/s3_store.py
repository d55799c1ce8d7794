"""Assets in a bucket of S3, as daybook has them: each an object `service-version.tar.gz`.

What is told of an asset is in its object's metadata, so that a push is one call, and a pull another.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from dataclasses import replace as replaced
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar

from buildstep.assets import names
from buildstep.assets.interface import Asset, Details, Incoming, told_details
from buildstep.assets.names import Name
from buildstep.assets.taken import settle
from buildstep.errors import StoreError, UsageError
from buildstep.files.interface import Access, Missing, Unlistable
from buildstep.net.connections import CHUNK, Reply
from buildstep.net.http import Http
from buildstep.net.s3_direct import META, DirectS3, Head
from buildstep.net.s3_errors import S3Error, Taken

PROBE = "~assets/probe"
"""An object that is written to find out whether the store obeys conditions."""
CONTENT_TYPE = "application/x-gtar"
"""As daybook says."""
_DENIED = "AccessDenied"
_SHA256, _SIGNATURE, _WRITER = "sha256", "signature", "writer"
_FIRST_PAUSE = 0.1
"""Seconds: many calls are made at once, and one that failed should not be what all wait for in the end."""
_MORE_ATTEMPTS = 2


class S3Assets:
    """`s3://BUCKET[/PREFIX]`. Credentials and endpoint: see `net.s3_account.Account`."""

    scheme: ClassVar[str] = "s3"
    at_once = 8

    def __init__(self, url: str, access: Access) -> None:
        options = access.http
        options = replaced(
            options,
            backoff=min(options.backoff, _FIRST_PAUSE),
            attempts=options.attempts + _MORE_ATTEMPTS if options.attempts > 1 else 1,
        )
        self._http = Http(environ=access.environ, options=options, bus=access.bus)
        self._client = DirectS3(url, http=self._http, endpoint=access.endpoint)
        self.url = self._client.uri
        self._guard = threading.Lock()
        self._obeys: bool | None = None

    # -- reading

    def list(self, service: str = "") -> Iterator[Asset]:
        """See `AssetStore`."""
        try:
            for row in self._client.list(f"{names.checked_service(service)}-" if service else ""):
                name = names.parse(row.key, hyphens=True)
                # Some stores ignore the prefix that was asked for.
                if name is not None and service in ("", name.service):
                    yield Asset(name=name, size=row.size, modified=row.modified, etag=row.etag)
        except S3Error as error:
            if error.server_code != _DENIED:
                raise
            # Somebody who may write assets, or read them by name.
            raise Unlistable(error.message, hint=error.hint) from error

    def details(self, name: Name) -> Details:
        """See `AssetStore`."""
        return self._told(name, self._head(name))

    def _told(self, name: Name, found: Head) -> Details:
        return _details(found, f"{self.url}/{name.file}")

    def _head(self, name: Name) -> Head:
        found = self._client.head(name.file)
        if found is None:
            raise Missing(f"{self.url} has no {name.file}")
        return found

    @contextlib.contextmanager
    def open(self, name: Name) -> Iterator[Incoming]:
        """See `AssetStore`."""
        with contextlib.closing(_Download(self._client, self._http, name)) as found:
            found.begin()
            yield found

    # -- writing

    def put(self, name: Name, path: Path, details: Details, *, replace: bool = False) -> bool:
        """See `AssetStore`."""
        writer = secrets.token_hex(8)
        headers = {
            "content-type": CONTENT_TYPE,
            f"{META}{_SHA256}": details.sha256,
            f"{META}{_WRITER}": writer,
        }
        if details.signature:
            headers[f"{META}{_SIGNATURE}"] = details.signature
        if not replace and not self._obeys_conditions():
            there = self._client.head(name.file)
            if there is not None:
                return settle(self, name, details, self._told(name, there))
        try:
            self._client.put(
                name.file,
                path,
                size=details.size,
                sha256=details.sha256,
                headers=headers,
                if_absent=not replace,
            )
        except Taken:
            found = self._head(name)
            if found.metadata.get(_WRITER) == writer:
                return True  # by an attempt whose response was lost
            return settle(self, name, details, self._told(name, found))
        return True

    def _obeys_conditions(self) -> bool:
        """Return whether the store refuses to write a name again; found out once."""
        with self._guard:
            if self._obeys is None:
                self._obeys, why = self._probed()
                if not self._obeys:
                    self._http.bus.note(
                        f"{self.url} {why}: two who push the same version at the same moment would not "
                        "notice each other",
                        level="warning",
                    )
            return self._obeys

    def _probed(self) -> tuple[bool, str]:
        try:
            return self._client.obeys_conditions(PROBE), "ignores conditions on writes"
        except S3Error as error:
            if error.server_code != _DENIED:
                raise
            # Somebody who may write assets only.
            return False, f"may ignore conditions on writes, and {PROBE} may not be written to find out"

    def delete(self, name: Name) -> None:
        """See `AssetStore`."""
        self._head(name)
        self._client.delete(name.file)

    def make_index(self) -> int:
        """Raises UsageError."""
        raise UsageError(f"{self.url} needs no index", hint="whoever may read it can list it")

    def interrupt(self) -> None:
        """See `AssetStore`."""
        self._client.interrupt()

    def finish(self) -> None:
        """Do nothing: whoever may read can list."""


def _details(found: Head, where: str) -> Details:
    metadata = found.metadata
    try:
        return told_details(metadata.get(_SHA256, ""), found.size, metadata.get(_SIGNATURE, ""))
    except ValueError as error:
        raise StoreError(
            f"the metadata of {where} cannot be read: {error}",
            hint="did somebody alter the store? push the asset again with --replace",
        ) from None


class _Download:
    """The bytes of an object, gone on with where a connection broke off."""

    def __init__(self, client: DirectS3, http: Http, name: Name) -> None:
        self._client = client
        self._http = http
        self._name = name
        self._stack = contextlib.ExitStack()
        self._reply: Reply | None = None
        self._etag = ""
        self._at = 0
        self.details = Details(sha256="", size=0)

    def begin(self) -> None:
        """Begin, and learn the details. Raises Missing."""
        found = self._http.retrying(self._connect)
        where = f"{self._client.uri}/{self._name.file}"
        self.details, self._etag = _details(found, where), found.etag

    def _connect(self) -> Head:
        self.close()
        key = self._name.file
        try:
            found = self._stack.enter_context(self._client.open(key, start=self._at, etag=self._etag))
        except Taken:
            raise self._replaced() from None
        if found is None:
            raise Missing(f"{self._client.uri} has no {key}")
        head, reply = found
        if self._etag and head.etag != self._etag:  # a store that ignores the condition
            raise self._replaced()
        if not head.size and reply.length is None:
            raise StoreError(
                f"{self._client.uri}/{key}: the store does not say how long it is",
                hint="does a proxy on the way send it in chunks?",
            )
        # A store that ignores ranges sends all of it again.
        left = self._at if reply.status != HTTPStatus.PARTIAL_CONTENT else 0
        while left and (data := reply.read(min(left, CHUNK))):
            left -= len(data)
        self._reply = reply
        return head

    def _replaced(self) -> StoreError:
        return StoreError(
            f"{self._client.uri}/{self._name.file} was replaced while it was read", retryable=True
        )

    def read(self, size: int = -1) -> bytes:
        """See `Incoming`."""
        left = self.details.size - self._at
        wanted = left if size < 0 else min(size, left)

        def attempt() -> bytes:
            if self._reply is None:
                self._connect()
            reply, self._reply = self._reply, None
            assert reply is not None
            data = reply.read(wanted)
            self._reply = reply
            return data

        data = self._http.retrying(attempt)
        self._at += len(data)
        return data

    def close(self) -> None:
        """End the call."""
        self._reply = None
        self._stack.close()
        self._stack = contextlib.ExitStack()
