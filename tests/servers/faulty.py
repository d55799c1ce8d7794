"""A proxy before an HTTP server that spoils some responses, as a network does: each by one fault of four."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import random
import socket
import struct
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

FAULTS = ("status 500", "reset", "lost response", "short body")


class Proxy(http.server.ThreadingHTTPServer):
    """share: of the calls that are spoiled. seen: how many calls there were, and how many by which fault;
    sent: bytes of bodies that went to clients."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str, share: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.share = share
        self.seen = dict.fromkeys(("calls", *FAULTS), 0)
        self.sent = 0
        self._random = random.Random(seed)
        self._guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self) -> str:
        """The fault of the next call; empty for none."""
        with self._guard:
            self.seen["calls"] += 1
            if self._random.random() >= self.share:
                return ""
            found = self._random.choice(FAULTS)
            self.seen[found] += 1
            return found

    def count(self, sent: int) -> None:
        with self._guard:
            self.sent += sent

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault()
        if fault == "status 500":
            return self._answer(500, [], b"<Error><Code>InternalError</Code></Error>")
        if fault == "reset":
            return self._reset()
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        with contextlib.closing(upstream):
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            upstream.request(self.command, self.path, body=body, headers=headers)
            response = upstream.getresponse()
            data = response.read()
        if fault == "lost response":
            return self._reset()
        kept = [row for row in response.getheaders() if row[0].lower() not in _OF_A_CONNECTION]
        length = response.getheader("Content-Length") or str(len(data))
        return self._answer(
            response.status, kept, data, length=length if self.command == "HEAD" else "", short=bool(fault)
        )

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815 - as the library wants them

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        data: bytes,
        *,
        length: str = "",
        short: bool = False,
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            body = data[: len(data) // 2] if short else data
            self.wfile.write(body)
            self.server.count(len(body))
        if short:
            self.close_connection = True

    def _reset(self) -> None:
        # Closed with a time to linger of zero, a connection ends with RST.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


_OF_A_CONNECTION = {"content-length", "transfer-encoding", "connection", "keep-alive"}


@contextlib.contextmanager
def faulty(upstream: str, *, share: float = 0.02, seed: int = 14) -> Iterator[Proxy]:
    """A proxy for the length of a block. The same calls in the same order meet the same faults."""
    with Proxy(upstream, share, seed) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
