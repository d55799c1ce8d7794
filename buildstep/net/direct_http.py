"""Bodies of GET requests to one server, by calls of our own; whatever is more than that is left to `Http`.

`requests` needs 0.25 s to import and a millisecond and a thread for each call: see `connections`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from buildstep.net.connections import Broken, Connections, Reply
from buildstep.net.errors import HttpError, safe_url
from buildstep.net.http import Http, failure_of
from buildstep.net.request import HttpRequest

if TYPE_CHECKING:
    from buildstep.net.transport import HttpStream

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class DirectStream:
    """A response whose body is still to be read, as `transport.HttpStream` is one."""

    def __init__(self, reply: Reply, url: str) -> None:
        self._reply = reply
        self.status = reply.status
        self.reason = ""
        self.headers = reply.headers
        self.url = url

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes. Raises HttpError if it stops, is too slow, or ends too early."""
        while data := self._reply.read():
            yield data

    def read(self, limit: int, *, patient: bool = True) -> bytes:
        """Return the whole body; of an error's text as much as comes."""
        return self._reply.read_all(limit) if patient else self._reply.error_text().encode()


class DirectHttp:
    """Connections to the server of a URL. http: whose options and environment they have, and which makes the
    calls that need more: those to a server that sends elsewhere, or wants a certificate of ours."""

    def __init__(self, url: str, http: Http) -> None:
        parts = urlsplit(url)
        self._base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._http = http
        self._guard = threading.Lock()
        self._links: Connections | None = None
        self._direct = http.options.client_cert is None

    def interrupt(self) -> None:
        """Make calls of other threads fail soon, and all later ones."""
        self._http.stop()
        with self._guard:
            if self._links is not None:
                self._links.interrupt()

    @contextlib.contextmanager
    def stream(self, request: HttpRequest) -> Iterator[DirectStream | HttpStream]:
        """Open the response to one attempt at a GET; its body is still to be read. Raises HttpError."""
        if self._direct:
            with self._reply(request) as reply:
                if reply.status not in _REDIRECTS:
                    stream = DirectStream(reply, request.url)
                    if reply.status not in request.ok:
                        raise failure_of(request, stream)
                    yield stream
                    return
            self._direct = False
        with self._http.stream(request) as other:
            yield other

    def _reply(self, request: HttpRequest) -> Reply:
        with self._guard:
            if self._links is None:
                self._links = Connections(self._base, environ=self._http.environ, options=self._http.options)
            links = self._links
        if self._http.stopped.is_set():
            raise HttpError(f"GET {safe_url(request.url)}: stopped, because something else failed")
        assert request.url.startswith(self._base)
        target = request.url.removeprefix(self._base)
        headers = {"host": links.host_header, **request.headers}
        try:
            return links.call(request.method, target, headers)
        except Broken as error:
            if not error.reused:
                raise
            # The server has closed a connection that was idle: that is no failure, and needs no pause.
            return links.call(request.method, target, headers)
