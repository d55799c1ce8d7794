"""Connections to one HTTP server for many calls of several threads, over the standard library alone.

`Http` does more, at a price: `requests` needs 0.25 s to import and a millisecond and a thread for each call.
This is for clients that make a thousand calls, or must have done their work in half a second. The rules are
the same: nothing waits for ever, no secret is in an error, a call is repeated only by who knows that it may.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from buildstep.net.deadlines import Deadlines
from buildstep.net.errors import HttpError, clean_text, safe_url
from buildstep.net.http_head import Response
from buildstep.net.request import USER_AGENT, HttpOptions
from buildstep.system.files import Slice

_SMALL = 128 << 10
"""A body up to this size goes out together with the head."""
_PIECE = 1 << 20
CHUNK = 1 << 18
_MAX_ERROR = 64 << 10

Body = bytes | Slice


class Broken(HttpError):
    """A call without a whole response. reused: on a connection that had been idle, which the server may have
    closed just then."""

    def __init__(self, message: str, *, reused: bool = False) -> None:
        super().__init__(message, retryable=True)
        self.reused = reused


class Reply:
    """A response whose body is still to be read. headers: by name in lower case. Use it as a context manager:
    one that is read to its end gives its connection back."""

    def __init__(
        self,
        owner: Connections,
        link: http.client.HTTPConnection,
        sock: socket.socket,
        response: Response,
        url: str,
    ) -> None:
        self._owner = owner
        self._link = link
        self._sock = sock
        self._response = response
        self._url = url
        self._got = 0
        self._seconds = 0.0
        self.status = response.status
        self.headers = response.fields
        length = self.headers.get("content-length", "")
        self.length = int(length) if length.isascii() and length.isdigit() else None
        self._expected = response.length  # of a HEAD none

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        whole = kind is None and self._response.isclosed() and not self._response.will_close
        self._response.close()
        self._owner.give_back(self._link, keep=whole)

    def read(self, size: int = CHUNK) -> bytes:
        """Return the next bytes, fewer than `size` only at the end.

        Raises Broken where the body ends too early, stops, or comes too slowly.
        """
        options = self._owner.options
        # Only what we wait counts: a reader may be slow as well.
        limit = options.idle + (self._got + size) / options.min_rate - self._seconds
        begun = time.monotonic()
        try:
            with self._owner.limited(self._sock, max(0.0, limit)):
                data = self._response.read(size)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._broken(reason(error)) from None
        self._seconds += time.monotonic() - begun
        self._got += len(data)
        if len(data) < size and self._expected is not None and self._got < self._expected:
            raise self._broken(f"it ended after {self._got} of {self._expected} bytes")
        return data

    def read_all(self, limit: int) -> bytes:
        """Return the rest of the body. Raises HttpError for one of more than `limit` bytes, Broken."""
        found = bytearray()
        while data := self.read():
            found += data
            if len(found) > limit:
                raise HttpError(f"the response of {safe_url(self._url)} has more than {limit} bytes")
        return bytes(found)

    def error_text(self) -> str:
        """Return the body of an error as text, as far as it comes: its status is what counts."""
        try:
            return self.read_all(_MAX_ERROR).decode("utf-8", "replace")
        except HttpError:
            return ""

    def _broken(self, why: str) -> Broken:
        return Broken(f"{safe_url(self._url)}: the response broke off: {why}")


class Connections:
    """Open connections to the server of a URL. Proxies are those of `environ`."""

    def __init__(self, base: str, *, environ: Mapping[str, str], options: HttpOptions) -> None:
        parts = urlsplit(base)
        assert parts.hostname
        self.base = base
        self.options = options
        self.host_header = parts.netloc
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port or (443 if self._secure else 80)
        self._proxy = _proxy(parts.scheme, parts.netloc, environ)
        self._tls: ssl.SSLContext | None = None
        self._guard = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _close, self._idle)
        self._deadlines = Deadlines()

    def call(self, method: str, target: str, headers: Mapping[str, str], body: Body = b"") -> Reply:
        """Make a call, to the end of the response's head. The caller closes the reply.

        headers: `host` among them. Raises Broken, HttpError.
        """
        link, reused = self._take()
        url = self.base + target
        try:
            sock = self._send(link, method, target, headers, body)
            response = self._response(sock, method)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.give_back(link, keep=False)
            raise self._failed(method, url, error, reused=reused) from None
        except BaseException:
            self.give_back(link, keep=False)
            raise
        return Reply(self, link, sock, response, url)

    def _response(self, sock: socket.socket, method: str) -> Response:
        """Return the next response, its head read."""
        response = Response(sock, method)
        try:
            with self.limited(sock, self.options.response):
                response.begin()
        except BaseException:
            response.close()
            raise
        return response

    def interrupt(self) -> None:
        """End the calls of other threads, which fail then."""
        self._deadlines.end_all()

    def close(self) -> None:
        """Close the connections that are in no call."""
        with self._guard:
            _close(self._idle)

    # -- connections

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection, and whether it has been used before."""
        while True:
            with self._guard:
                if not self._idle:
                    break
                link = self._idle.pop()
            if link.sock is not None and not _readable(link.sock):
                return link, True
            link.close()  # the server has closed it
        return self._new(), False

    def give_back(self, link: http.client.HTTPConnection, *, keep: bool) -> None:
        """Take a connection back after a call. keep: whether it can be used again."""
        if keep and link.sock is not None:
            with self._guard:
                self._idle.append(link)
        else:
            link.close()

    def _new(self) -> http.client.HTTPConnection:
        host, port = self._host, self._port
        if self._proxy is not None:
            host, port = str(self._proxy.hostname), self._proxy.port or 80
        timeout = self.options.connect
        if not self._secure:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        link = http.client.HTTPSConnection(host, port, timeout=timeout, context=self._context())
        if self._proxy is not None:
            link.set_tunnel(self._host, self._port, headers=self._proxy_headers())
        return link

    def _context(self) -> ssl.SSLContext:
        with self._guard:
            if self._tls is None:
                self._tls = ssl.create_default_context(cafile=self.options.ca_bundle or None)
                if not self.options.verify:
                    self._tls.check_hostname = False
                    self._tls.verify_mode = ssl.CERT_NONE
            return self._tls

    def _proxy_headers(self) -> dict[str, str]:
        if self._proxy is None or not self._proxy.username:
            return {}
        from urllib.parse import unquote

        from buildstep.net.credentials import Credentials

        found = Credentials(user=unquote(self._proxy.username), password=unquote(self._proxy.password or ""))
        return {"Proxy-Authorization": found.header()}

    @contextlib.contextmanager
    def limited(self, sock: socket.socket, seconds: float) -> Iterator[None]:
        """Give the block so many seconds, then end the connection under it. Raises TimeoutError."""
        self._deadlines.set(sock, seconds)
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self._deadlines.clear(sock):
                raise TimeoutError(f"too little came within {seconds:.3g} s") from error
            raise
        if self._deadlines.clear(sock):
            raise TimeoutError(f"too little came within {seconds:.3g} s")

    # -- a call

    def _send(
        self,
        link: http.client.HTTPConnection,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: Body,
    ) -> socket.socket:
        """Send a call, and return the socket that the response will come from."""
        if self._proxy is not None and not self._secure:
            target, headers = self.base + target, {**headers, **self._proxy_headers()}
        data, rest = (body, None) if isinstance(body, bytes) else _begin(body)
        length = len(data) if rest is None else rest.size
        # What is compressed could be neither resumed nor compared.
        lines = {**headers, "user-agent": USER_AGENT, "accept-encoding": "identity"}
        if length or method in ("PUT", "POST"):
            lines["content-length"] = str(length)
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        if head.count("\n") != len(lines) or head.count("\r") != len(lines):
            raise ValueError("a header has more than one line")
        if link.sock is None:
            link.connect()
        sock: socket.socket = link.sock
        sock.settimeout(self.options.response)
        try:
            with self.limited(sock, self.options.response + length / self.options.min_rate):
                sock.sendall(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + data)
                if rest is not None:
                    _send_file(sock, rest)
        except (BrokenPipeError, ConnectionResetError):
            # A server may refuse an upload at once. Its response is what counts, if there is one.
            if not _readable(sock):
                raise
        return sock

    def _failed(self, method: str, url: str, error: Exception, *, reused: bool) -> HttpError:
        what = f"{method} {safe_url(url)}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return HttpError(
                f"{what}: the connection is not secure: {clean_text(str(error), 200)}",
                hint="SSL_CERT_FILE names a file of certificate authorities",
            )
        if isinstance(error, socket.gaierror):
            again = error.errno == socket.EAI_AGAIN
            return HttpError(
                f"{what}: the host's name is not known", hint="check the address", retryable=again
            )
        gone = isinstance(error, ConnectionError | http.client.BadStatusLine)
        return Broken(f"{what}: {reason(error)}", reused=reused and gone)


def _close(links: list[http.client.HTTPConnection]) -> None:
    while links:
        links.pop().close()


def _begin(body: Slice) -> tuple[bytes, Slice | None]:
    """Return the body as bytes if it is small, else as the part of a file that it is. Raises OSError."""
    if body.size > _SMALL:
        return b"", body
    with body.path.open("rb") as stream:
        stream.seek(body.offset)
        data = stream.read(body.size)
    if len(data) != body.size:
        raise ValueError(f"{body.path} became shorter while it was sent")
    return data, None


def _send_file(sock: socket.socket, part: Slice) -> None:
    """Send a part of a file. Raises OSError, ValueError where the file has become shorter."""
    with part.path.open("rb") as stream:
        if not isinstance(sock, ssl.SSLSocket):
            # Each piece has its time limit, not the file.
            at, left = part.offset, part.size
            while left:
                if not (sent := sock.sendfile(stream, at, min(left, _PIECE))):
                    break
                at, left = at + sent, left - sent
        else:
            stream.seek(part.offset)
            left = part.size
            while left and (data := stream.read(min(left, _PIECE))):
                sock.sendall(data)
                left -= len(data)
    if left:
        raise ValueError(f"{part.path} became shorter while it was sent")


def _readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def reason(error: BaseException) -> str:
    """Return why a call failed, in words that hold no secret."""
    if isinstance(error, TimeoutError):
        return clean_text(str(error), 120) or "nothing came in time"
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        return "the server closed the connection"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return clean_text(str(error), 120) or type(error).__name__


def _proxy(scheme: str, host: str, environ: Mapping[str, str]) -> Any:
    """Return the parts of the URL of the proxy for a host; None for no proxy."""
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    found = next((environ[name] for name in names if environ.get(name)), "")
    if not found:
        return None
    from urllib import request as urllib_request

    bypass = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    # It is in its documentation, and not in the types of it.
    bypassed: Any = urllib_request.proxy_bypass_environment  # type: ignore[attr-defined]
    if bypass and bypassed(host, {"no": bypass}):
        return None
    return urlsplit(found if "://" in found else f"http://{found}")
