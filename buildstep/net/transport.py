"""Make the calls of a session with `requests`, and with time limits that it does not have by itself.

A socket's time-out starts anew with every byte. So each phase that reads has a watchdog as well: a
thread that shuts the socket down when the phase as a whole takes too long.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import should_bypass_proxies
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from buildstep.events import Gauge
from buildstep.net.errors import HttpError, clean_text, safe_url
from buildstep.net.request import USER_AGENT, HttpOptions, HttpRequest
from buildstep.system.files import Slice, SliceReader

CHUNK = 1 << 18
_ERROR_BODY_SECONDS = 3.0
_MAX_REDIRECTS = 10


def _shut_down(sock: socket.socket | None) -> None:
    """End what waits for a socket, in any thread."""
    if sock is not None:
        with contextlib.suppress(OSError):
            # The plain socket's method: that of a TLS one would forget its state under a reader.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Watchdog:
    """Shut a socket down when it was not fed for so many seconds. A context manager with a thread."""

    def __init__(self, sock: socket.socket | None, seconds: float) -> None:
        self.expired = False
        self._sock = sock
        self._seconds = seconds
        self._deadline = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http-watchdog", daemon=True)

    def feed(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def __enter__(self) -> Self:
        self.feed()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(max(0.0, self._deadline - time.monotonic())):
            if time.monotonic() >= self._deadline:
                self.expired = True
                _shut_down(self._sock)
                return


class _Sockets:
    """The sockets of a session, which another thread can shut down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def add(self, sock: socket.socket) -> None:
        with self._lock:
            self._live.add(sock)

    def shut_down(self) -> None:
        with self._lock:
            for sock in self._live:
                _shut_down(sock)


class _Watched(HTTPConnection):
    """A connection with a time limit for the response's head; it notices an early response."""

    sockets: ClassVar[_Sockets]

    def connect(self) -> None:
        super().connect()
        self.sockets.add(self.sock)

    def getresponse(self) -> urllib3.response.HTTPResponse:  # type: ignore[override] # as urllib3 has it
        sock = self.sock
        assert isinstance(self.timeout, int | float)  # every call has a limit
        with _Watchdog(sock, self.timeout) as dog:
            try:
                response = super().getresponse()
            except Exception as error:
                if dog.expired:
                    raise TimeoutError("no response in time") from error
                raise
        if dog.expired:  # a head cut short looks like one that has ended
            response.close()
            raise TimeoutError("no response in time")
        response.buildstep_socket = sock  # type: ignore[attr-defined] # the connection may give it up
        return response

    def send(self, data: Any) -> None:
        # A server may refuse an upload at once. Its response is what counts; to go on sending would
        # only turn it into a broken pipe. (A TLS socket is readable for other reasons as well.)
        if self.sock is not None and not isinstance(self.sock, ssl.SSLSocket):
            poll = select.poll()
            poll.register(self.sock, select.POLLIN)
            if poll.poll(0):
                raise BrokenPipeError("the server has responded already")
        super().send(data)


class _WatchedTLS(_Watched, HTTPSConnection):
    pass


class _Adapter(HTTPAdapter):
    """Make connections that are watched, and known to their session."""

    def __init__(self, sockets: _Sockets) -> None:
        plain = type("Watched", (_Watched,), {"sockets": sockets})
        secure = type("WatchedTLS", (_WatchedTLS,), {"sockets": sockets})
        self._pools = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }
        super().__init__(max_retries=0, pool_connections=8, pool_maxsize=8)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


class HttpStream:
    """A response whose body is still to be read."""

    def __init__(
        self, response: requests.Response, method: str, options: HttpOptions, stopped: threading.Event
    ) -> None:
        self._stopped = stopped
        self._response = response
        self._options = options
        self._socket: socket.socket | None = getattr(response.raw, "buildstep_socket", None)
        self.method = method
        self.status = response.status_code
        self.reason = response.reason or ""
        self.url = response.url
        self.headers: dict[str, str] = {name.lower(): value for name, value in response.headers.items()}

    def chunks(self, *, decode: bool = False, idle: float | None = None) -> Iterator[bytes]:
        """Yield the body as it comes. Raises HttpError if it stops, is too slow, or ends too early.

        decode: undo a Content-Encoding. idle: another limit for silence, in seconds.
        """
        idle = self._options.idle if idle is None else idle
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.settimeout(idle)
        limit = idle + CHUNK / self._options.min_rate
        got = 0
        before = sys.exc_info()[1]
        with _Watchdog(self._socket, limit) as dog:
            while True:
                problem: Exception | None = None
                chunk = b""
                try:
                    chunk = self._response.raw.read(CHUNK, decode_content=decode)
                except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                    problem = _cut(error, before)
                if dog.expired:
                    raise self._broken(f"fewer than {CHUNK} bytes came within {limit:.3g} s")
                if self._stopped.is_set():
                    raise HttpError("stopped, because something else failed")
                if problem is not None:
                    raise self._broken(_reason(problem, idle)) from None
                if not chunk:
                    break
                dog.feed()
                got += len(chunk)
                yield chunk
                dog.feed()
        length = self.headers.get("content-length", "")
        if not decode and self.method != "HEAD" and length.isdigit() and got != int(length):
            raise self._broken(f"it ended after {got} of {length} bytes")

    def read(self, limit: int, *, patient: bool = True) -> bytes:
        """Return the whole body, decoded. patient: false for an error's text, not worth a long wait."""
        body = bytearray()
        idle = self._options.idle if patient else min(self._options.idle, _ERROR_BODY_SECONDS)
        for chunk in self.chunks(decode=True, idle=idle):
            body += chunk
            if len(body) > limit:
                message = f"the response of {safe_url(self.url)} has more than {limit} bytes"
                raise HttpError(message, status=self.status)
        return bytes(body)

    def _broken(self, why: str) -> HttpError:
        return HttpError(f"{self.method} {safe_url(self.url)}: the response broke off: {why}", retryable=True)


class Transport:
    """Makes single calls. Proxies come from the environment given, nothing from the process's own."""

    def __init__(self, environ: Mapping[str, str], options: HttpOptions, stopped: threading.Event) -> None:
        self._environ = environ
        self._stopped = stopped
        self._options = options
        self._session = requests.Session()
        # Otherwise requests reads netrc files and the environment of this process.
        self._session.trust_env = False
        self._session.max_redirects = _MAX_REDIRECTS
        # requests takes a file of authorities in the same place as the switch.
        self._session.verify = (options.ca_bundle or True) if options.verify else False
        self._session.cert = options.client_cert
        self._sockets = _Sockets()
        adapter = _Adapter(self._sockets)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def close(self) -> None:
        self._session.close()

    def interrupt(self) -> None:
        """End the calls of other threads, which fail then."""
        self._sockets.shut_down()

    @contextlib.contextmanager
    def open(self, request: HttpRequest) -> Iterator[HttpStream]:
        """Make one call, to the end of the response's head. Raises HttpError if there is no response."""
        options, data = self._options, request.data
        # Compressed on the way, a body could be neither resumed nor compared by its length.
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **request.headers}
        if request.sign is not None:
            headers |= request.sign()
        before = sys.exc_info()[1]
        with contextlib.ExitStack() as stack:
            body: Any = data
            if isinstance(data, Path):
                data = Slice(path=data, offset=0, size=data.stat().st_size)
            if isinstance(data, Slice):
                body = SliceReader(stack.enter_context(data.path.open("rb")), data.offset, data.size)
                if request.gauge is not None:
                    body = stack.enter_context(_Sent(body, request.gauge))
            try:
                response = self._session.request(
                    request.method,
                    request.url,
                    headers=headers,
                    params=dict(request.params or {}),
                    data=body,
                    timeout=(options.connect, options.response + request.held),
                    proxies=self._proxies(request.url),
                    allow_redirects=request.method in ("GET", "HEAD"),
                    stream=True,
                )
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                # Not chained: their texts contain whole URLs.
                raise _translate(_cut(error, before), request, options) from None
            with contextlib.closing(response):
                yield HttpStream(response, request.method, options, self._stopped)

    def _proxies(self, url: str) -> dict[str, str]:
        environ = self._environ
        bypass = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        if bypass and should_bypass_proxies(url, no_proxy=bypass):
            return {}
        found = {}
        for scheme in ("http", "https"):
            names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
            if proxy := next((environ[name] for name in names if environ.get(name)), ""):
                found[scheme] = proxy
        return found


class _Sent:
    """A body that tells how much of it was read; after a failure, that nothing was."""

    def __init__(self, body: SliceReader, gauge: Gauge) -> None:
        self._body, self._gauge = body, gauge
        self._told = 0

    def __len__(self) -> int:
        return len(self._body)

    def read(self, size: int = -1, /) -> bytes:
        data = self._body.read(size)
        self._told += len(data)
        self._gauge.advance(len(data))
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._gauge.advance(-self._told)


def _cut(error: Exception, before: BaseException | None) -> Exception:
    """Return the error of a call without what was handled already when the call was made, as Python puts that
    at the end of the chain: it is none of its causes."""
    link: BaseException | None = error
    while link is not None and before is not None:
        if link.__context__ is before:
            link.__context__ = None
        link = link.__context__
    return error


def _root_cause(error: BaseException) -> BaseException:
    """Return the innermost failure: those around it repeat the whole URL."""
    inner = getattr(error, "reason", None)
    if not isinstance(inner, BaseException):
        inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    inner = inner or error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error if inner is None else _root_cause(inner)


def _reason(error: Exception, idle: float) -> str:
    if isinstance(error, urllib3.exceptions.ReadTimeoutError | TimeoutError):
        return f"nothing came for {idle:g} s"
    root = _root_cause(error)
    if isinstance(root, OSError) and root.strerror:
        return root.strerror
    return clean_text(str(root), 120) or type(root).__name__


def _translate(error: Exception, request: HttpRequest, options: HttpOptions) -> HttpError:
    """Return the error for a call without a response, with a message that holds no secret."""
    root = _root_cause(error)
    why, hint, retryable = type(error).__name__, "check the address", False
    if isinstance(error, requests.ConnectTimeout):
        why, hint, retryable = f"no connection within {options.connect:g} s", "", True
    elif isinstance(error, requests.Timeout | TimeoutError):
        why, hint, retryable = f"no response within {options.response + request.held:g} s", "", True
    elif isinstance(error, requests.exceptions.SSLError) or isinstance(root, ssl.SSLError):
        why = f"the connection is not secure: {clean_text(str(root), 200)}"
        hint = "SSL_CERT_FILE names a file of certificate authorities; a server can be marked insecure"
    elif isinstance(error, requests.exceptions.ProxyError):
        why, hint, retryable = f"the proxy failed: {_reason(error, 0)}", "", True
    elif isinstance(root, socket.gaierror):
        why, retryable = "the host's name is not known", root.errno == socket.EAI_AGAIN
    elif isinstance(error, requests.exceptions.TooManyRedirects):
        why, hint = f"redirected more than {_MAX_REDIRECTS} times", ""
    elif not isinstance(error, ValueError):  # which requests' class for an invalid address is
        why, hint, retryable = _reason(error, options.response), "", True
    return HttpError(f"{request.method} {safe_url(request.url)}: {why}", hint=hint, retryable=retryable)
