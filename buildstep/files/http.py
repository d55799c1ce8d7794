"""A store behind a web server: for readers, of a store that others write in another way.

What a server lacks is made up for: one that ignores ranges sends everything, of which a slice is taken; one
that refuses HEAD is asked for a first byte. Only a listing cannot be had.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NoReturn
from urllib.parse import unquote, urlsplit

from buildstep.errors import UsageError
from buildstep.files import remote
from buildstep.files.interface import Access, Item, Missing, ReadOnly, Unlistable, Versioned, checked
from buildstep.files.parallel import parallel
from buildstep.net.credentials import Credentials, credentials_for
from buildstep.net.direct_http import DirectHttp, DirectStream
from buildstep.net.errors import HttpError, clean_text, safe_url
from buildstep.net.http import Http
from buildstep.net.ranges import range_header, take
from buildstep.net.request import HttpRequest

if TYPE_CHECKING:
    from buildstep.net.transport import HttpStream

_GONE = frozenset({404, 410})
_NO_HEAD = frozenset({405, 501})
_PAST_THE_END = 416
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_OF_NOTHING = re.compile(r"bytes .*/0")


def _bounded(pieces: Iterable[bytes], count: int | None) -> bytes:
    """Return what comes, as far as it was asked for: a server that sends on and on fills no memory. What is
    no longer than that is read to its end, so that its connection can be used again."""
    found, size = [], 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        if count is not None and size > count:
            break
    return b"".join(found)[:count]


class WebHttp:
    """`http://[USER[:PASSWORD]@]HOST[:PORT]/PATH`.

    User and password: of the URL, else BUILDSTEP_STORE_USER and BUILDSTEP_STORE_PASSWORD (for the host
    BUILDSTEP_STORE_HOST if that is set), else what `docker login` wrote for this host.
    """

    scheme: ClassVar[str] = "http"
    writable = False
    root = None
    at_once = 8

    def __init__(self, place: str, access: Access) -> None:
        address = f"{self.scheme}:{place}"
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or parts.query or parts.fragment:
            raise UsageError(
                f"{clean_text(safe_url(address), 200)!r} is no address of a store",
                hint=f"such as {self.scheme}://host/store",
            )
        self.url = safe_url(address).rstrip("/")
        found = credentials_for(f"{host}:{port}" if port else host, access.environ, service="STORE")
        if parts.username:
            found = Credentials(user=unquote(parts.username), password=unquote(parts.password or ""))
        self._headers = {"Authorization": found.header()} if found else {}
        self._http = Http(environ=access.environ, options=access.http, bus=access.bus)
        self._direct = DirectHttp(self.url, self._http)
        self._heads = self._ranges = True

    def interrupt(self) -> None:
        """Make calls of other threads fail soon, and all later ones."""
        self._direct.interrupt()

    # -- reading ---------------------------------------------------------------------------------------

    def exists(self, names: Collection[str]) -> set[str]:
        """See `Storage`."""
        wanted = [checked(name) for name in names]
        found = parallel(self._there, wanted, self.at_once)
        return {name for name, there in zip(wanted, found, strict=True) if there}

    def _there(self, name: str) -> bool:
        try:
            if self._heads:
                try:
                    self._http.send(self._request(name, method="HEAD"))
                except HttpError as error:
                    if error.status not in _NO_HEAD:
                        raise
                    self._heads = False
                else:
                    return True
            return self._http.retrying(lambda: self._has_first_byte(name))
        except HttpError as error:
            if error.status in _GONE:
                return False
            raise

    def _has_first_byte(self, name: str) -> bool:
        with self._direct.stream(self._request(name, "bytes=0-0")):
            return True

    def list(self, under: str) -> Iterator[Item]:
        """Raises Unlistable."""
        raise Unlistable(
            f"{self.url} cannot be listed: a web server does not tell what it has",
            hint="use the URL by which the store is written to: dir:, s3: or ssh:",
        )

    def read(self, name: str, start: int = 0, count: int | None = None) -> bytes:
        """See `Storage`."""
        if count == 0:
            if not self._there(checked(name)):
                raise self._missing(name)
            return b""
        with self._reading(name):
            return self._http.retrying(lambda: self._read(name, start, count))

    def _read(self, name: str, start: int, count: int | None, *, fresh: bool = False) -> bytes:
        with self._direct.stream(self._request(name, range_header(start, count), fresh=fresh)) as stream:
            if stream.status != _PAST_THE_END:
                if self._is_range(stream, start):
                    return _bounded(stream.chunks(), count)
                self._note_no_ranges(start, count)
                return take(stream.chunks(), start, count)
        if start >= 0:
            return b""
        # The last bytes of what is shorter are all of it (RFC 9110, 14.1.2), but some servers refuse.
        return take([self._read(name, 0, None)], start, count)

    def _is_range(self, stream: HttpStream | DirectStream, start: int) -> bool:
        """Return whether a response has the range that was asked for; false if it has everything."""
        header = stream.headers.get("content-range", "")
        if stream.status != 206 and not header:
            return False
        if _OF_NOTHING.fullmatch(header):  # no form of RFC 9110 says that a range is empty
            return True
        found = _CONTENT_RANGE.fullmatch(header)
        total = int(found[2]) if found and found[2] != "*" else None
        begin = start if start >= 0 else None if total is None else max(0, total + start)
        if found is None or (begin is not None and int(found[1]) != begin):
            raise HttpError(
                f"{safe_url(stream.url)} sent another range than the one asked for", status=stream.status
            )
        return True

    def _note_no_ranges(self, start: int, count: int | None) -> None:
        if self._ranges and (start or count is not None):
            self._ranges = False
            self._http.bus.note(
                f"{self.url} ignores ranges: of each pack everything is fetched up to what is wanted",
                level="warning",
            )

    def fetch(self, name: str, target: Path) -> None:
        """See `Storage`. What broke off is resumed."""
        with self._reading(name), target.open("xb") as file:

            def resume() -> None:
                have = file.tell()
                with self._http.stream(self._request(name, range_header(have))) as stream:
                    if stream.status == _PAST_THE_END:
                        return
                    # Without ranges what is here already comes once more.
                    skip = 0 if self._is_range(stream, have) else have
                    for chunk in stream.chunks():
                        file.write(chunk[skip:])
                        skip = max(0, skip - len(chunk))

            self._http.retrying(resume)

    def load(self, name: str) -> Versioned | None:
        """See `Storage`."""
        try:
            with self._reading(name):
                data = self._http.retrying(lambda: self._read(name, 0, None, fresh=True))
        except Missing:
            return None
        return Versioned(data, hashlib.sha256(data).hexdigest())

    def _request(
        self, name: str, range_: str = "", *, method: str = "GET", fresh: bool = False
    ) -> HttpRequest:
        headers = dict(self._headers)
        if range_:
            headers["Range"] = range_
        if fresh:  # what can change must not come out of a proxy's cache
            headers["Cache-Control"] = "no-cache"
        ok = frozenset({200, 206, _PAST_THE_END} if range_ else {200})
        return HttpRequest(method, f"{self.url}/{checked(name)}", headers=headers, ok=ok)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except HttpError as error:
            if error.status in _GONE:
                raise self._missing(name) from None
            raise

    def _missing(self, name: str) -> Missing:
        return Missing(f"{self.url} has no {name}")

    # -- writing ---------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes | Path) -> bool:
        """Raises ReadOnly."""
        self._refuse()

    def spool(self) -> contextlib.AbstractContextManager[Path]:
        """See `Storage`."""
        return remote.spool()

    def delete(self, names: Iterable[str]) -> None:
        """Raises ReadOnly."""
        self._refuse()

    def swap(self, name: str, data: bytes | None, version: str | None) -> bool:
        """Raises ReadOnly."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ReadOnly(
            f"{self.url} cannot be written to: it is read through a web server",
            hint="use the URL by which the store is written to: dir:, s3: or ssh:",
        )


class WebHttps(WebHttp):
    """`https://[USER[:PASSWORD]@]HOST[:PORT]/PATH`."""

    scheme: ClassVar[str] = "https"
