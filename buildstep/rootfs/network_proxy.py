"""The HTTP proxy that commands in an image have for a network: forwards plain HTTP, and tunnels by CONNECT.

It serves what package managers and people's tools do: requests one after another or all at once to one host,
answers in any form. Responses are passed on as they come. Everything is bounded: connections, the head of a
request, and the time that either side may be silent.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from buildstep.errors import SandboxError
from buildstep.rootfs.network_policy import (
    Endpoint,
    Policy,
    RefusedError,
    UpstreamProxy,
    endpoint_of,
    upstream,
)

CONNECTIONS = 64
"""How many a command may have at a time; more wait."""

_HEAD = 64 << 10
_CHUNK = 64 << 10
_CONNECT_SECONDS = 20.0
_HEAD_SECONDS = 60.0
_SILENT_SECONDS = 900.0
_PAUSE = 0.05
_DROPPED = ("proxy-connection", "proxy-authorization")


class Contact(NamedTuple):
    """A host that a command wanted to reach. problem: why it did not; empty if it did."""

    wanted: Endpoint
    problem: str = ""


class _BadRequestError(Exception):
    """What the client sent is no request that a proxy can serve. Carries the status line's end."""


class _Request(NamedTuple):
    """The head of a request. target: what it asks for, as it was written; path: the same on its own server;
    length: of the body, in bytes."""

    method: str
    wanted: Endpoint
    target: str
    path: str
    version: str
    headers: list[str]
    length: int


class NetworkProxy:
    """A proxy on a listening socket, served by threads of this process until it is closed."""

    def __init__(self, listener: socket.socket, policy: Policy, environ: Mapping[str, str]) -> None:
        self._listener = listener
        self._policy = policy
        self._environ = environ
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self.contacts: deque[Contact] = deque(maxlen=10_000)
        """What was asked for since somebody looked, in order."""
        threading.Thread(target=self._accept, name="network proxy", daemon=True).start()

    def close(self) -> None:
        """Serve nobody any more."""
        with self._lock:
            self._closed = True
            left = list(self._open)
        for item in (self._listener, *left):
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            self._free.acquire()
            try:
                client, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                self._free.release()
                time.sleep(_PAUSE)  # the client is gone already, or this process has too many files open
                continue
            serving = threading.Thread(target=self._serve, args=(client,), name="network proxy", daemon=True)
            try:
                serving.start()
            except RuntimeError:  # no more threads can be had now: this client may ask again
                client.close()
                self._free.release()

    def _serve(self, client: socket.socket) -> None:
        try:
            with self._kept(client):
                _Connection(client, self).serve()
        except (OSError, ValueError):
            pass  # the client or the server went away: each sees that for itself
        finally:
            self._free.release()

    @contextlib.contextmanager
    def _kept(self, item: socket.socket) -> Iterator[None]:
        """Close a socket at the end of a block, or when the proxy is closed."""
        with self._lock:
            if self._closed:
                item.close()
                raise OSError("closed")
            self._open.add(item)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(item)
            item.close()

    def connect(self, wanted: Endpoint, scheme: str) -> tuple[socket.socket, UpstreamProxy | None]:
        """Return a connection to a host, or to the proxy that leads to it.

        Raises RefusedError, SandboxError for a proxy setting that is none, and OSError.
        """
        through = upstream(self._environ, scheme, wanted)
        try:
            if through is not None:
                self._policy.check_name(wanted)
                found = _connected_to_proxy(through)
            else:
                found = _connected(self._policy.addresses(wanted), wanted.port)
        except (RefusedError, OSError) as error:
            self.contacts.append(Contact(wanted, str(error)))
            raise
        self.contacts.append(Contact(wanted))
        found.settimeout(_SILENT_SECONDS)
        return found, through


def _connected_to_proxy(proxy: UpstreamProxy) -> socket.socket:
    """Return a connection to the CI host's own proxy. Raises OSError, which says that it was the proxy."""
    try:
        found = socket.create_connection(proxy.at, timeout=_CONNECT_SECONDS)
        if proxy.tls:
            import ssl  # few proxies are spoken to by TLS, and it is a large module

            return ssl.create_default_context().wrap_socket(found, server_hostname=proxy.at.host)
    except OSError as error:
        raise OSError(f"this host's proxy {proxy.at}: {error}") from error
    return found


def _connected(addresses: Sequence[str], port: int) -> socket.socket:
    """Return a connection to the first address that takes one. Raises OSError of the last."""
    problem = OSError("it has no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=_CONNECT_SECONDS)
        except OSError as error:
            problem = error
    raise problem


class _Connection:
    """A client's connection: its requests are read here, answers are passed on by a thread of their own."""

    def __init__(self, client: socket.socket, proxy: NetworkProxy) -> None:
        self._client = client
        self._proxy = proxy
        self._buffer = b""
        self._server: socket.socket | None = None
        self._wanted: Endpoint | None = None
        self._through: UpstreamProxy | None = None
        self._answers: threading.Thread | None = None
        self._leaving = threading.Event()

    def serve(self) -> None:
        """Serve requests until either side is done."""
        self._client.settimeout(_HEAD_SECONDS)
        try:
            while (head := self._head()) is not None:
                try:
                    request = _parsed(head)
                    if request.method == "CONNECT":
                        self._tunnel(request)
                        return
                    self._forward(request)
                except _BadRequestError as error:
                    self._refuse(400, str(error))
                    return
                except RefusedError as error:
                    self._refuse(403, str(error))
                    return
                except (OSError, SandboxError) as error:
                    self._refuse(502, f"{request.wanted} cannot be reached: {error}")
                    return
        finally:
            self._leave()

    # -- requests

    def _head(self) -> bytes | None:
        """Return the next request's head; None where the client is done."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _HEAD:
                self._refuse(431, "the head of the request is too long")
                return None
            # Between two requests a client may take its time: it unpacks what it got.
            self._client.settimeout(_HEAD_SECONDS if self._buffer else _SILENT_SECONDS)
            data = self._client.recv(_CHUNK)
            if not data:
                return None
            self._buffer += data
        head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
        return head

    def _forward(self, request: _Request) -> None:
        """Pass a request on. Answers come on their own, so that many requests can be under way."""
        if self._server is None or self._wanted != request.wanted:
            # Whoever goes to another host has all answers of the last one: nothing is lost.
            self._leave()
            self._server, self._through = self._proxy.connect(request.wanted, "http")
            self._wanted = request.wanted
            self._leaving = threading.Event()
            self._answers = threading.Thread(
                target=_pass_on, args=(self._server, self._client, self._leaving), daemon=True
            )
            self._answers.start()
        through = self._through
        headers = list(request.headers)
        if through is not None and through.auth:
            headers.append(f"Proxy-Authorization: {through.auth}")
        target = request.path if through is None else request.target
        lines = [f"{request.method} {target} {request.version}", *headers, "", ""]
        self._server.sendall("\r\n".join(lines).encode("latin-1"))
        left = request.length
        while left:
            data = self._buffer[:left] or self._client.recv(min(left, _CHUNK))
            if not data:
                return
            self._buffer = self._buffer[len(data) :] if self._buffer else b""
            self._server.sendall(data)
            left -= len(data)

    def _tunnel(self, request: _Request) -> None:
        """Connect the client with a host, for as long as both want it."""
        self._leave()
        server, through = self._proxy.connect(request.wanted, "https")
        self._server = server
        if through is None:
            self._client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            auth = f"Proxy-Authorization: {through.auth}\r\n" if through.auth else ""
            server.sendall(
                f"CONNECT {request.wanted} HTTP/1.1\r\nHost: {request.wanted}\r\n{auth}\r\n".encode("latin-1")
            )
        if self._buffer:
            server.sendall(self._buffer)
        self._client.settimeout(_SILENT_SECONDS)
        self._answers = threading.Thread(
            target=_pass_on, args=(server, self._client, self._leaving), daemon=True
        )
        self._answers.start()
        while data := self._client.recv(_CHUNK):
            server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)
        self._answers.join(_SILENT_SECONDS)

    def _leave(self) -> None:
        """Be done with the server that was last talked to."""
        self._leaving.set()
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)
            if self._answers is not None:
                self._answers.join()
            self._server.close()
        self._server = self._answers = None

    def _refuse(self, status: int, text: str) -> None:
        """Answer a request with an error, whose text apt shows as well."""
        body = f"buildstep: {text}\n".encode(errors="replace")
        line = " ".join(text.split()).encode("ascii", errors="replace").decode()
        head = (
            f"HTTP/1.1 {status} {line}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._leave()
        self._client.sendall(head.encode("latin-1") + body)
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)


def _pass_on(server: socket.socket, client: socket.socket, leaving: threading.Event) -> None:
    """Give a client what a server sends. When the server is done, so is the client, unless it has left."""
    with contextlib.suppress(OSError):
        while data := server.recv(_CHUNK):
            client.sendall(data)
    if not leaving.is_set():
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def _parsed(head: bytes) -> _Request:
    """Read a request's head. Raises _BadRequestError."""
    first, *rows = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise _BadRequestError("this is no request of HTTP/1")
    method, target, version = words
    headers, length = [], 0
    for row in rows:
        name, colon, value = row.partition(":")
        if not colon or not name or name != name.strip() or "\n" in row or "\r" in row:
            raise _BadRequestError("a header of the request is not one")
        if name.lower() == "transfer-encoding":
            raise _BadRequestError("a request's body needs its length")
        if name.lower() == "content-length":
            if length or not value.strip().isdecimal():
                raise _BadRequestError("the length of the request's body is not one number")
            length = int(value)
        if name.lower() not in _DROPPED:
            headers.append(row)
    try:
        if method == "CONNECT":
            return _Request(method, endpoint_of(target, "https"), target, "", version, headers, length)
        parts = urlsplit(target)
        if parts.scheme != "http":
            raise _BadRequestError("a proxy is asked for http://HOST/PATH, or to CONNECT")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return _Request(method, endpoint_of(target), target, path, version, headers, length)
    except ValueError as error:
        raise _BadRequestError(f"the request names no host: {error}") from error
