"""Responses of HTTP/1.1 whose head is read by a few lines of our own; http.client reads the body."""

from __future__ import annotations

import http.client
import socket

_MAX_LINE = 1 << 16
_MAX_HEADERS = 200


class Response(http.client.HTTPResponse):
    """A response whose head is read here, in a tenth of the time, and must be complete: http.client takes one
    that is cut short for one that has ended. fields: its headers, by name in lower case."""

    fields: dict[str, str]

    def begin(self) -> None:
        while True:
            self.status, minor, self.fields = self._head()
            if self.status >= 200:
                break
        length = self.fields.get("content-length", "")
        self.chunked = self.fields.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.length = int(length) if length.isascii() and length.isdigit() and not self.chunked else None
        if self.status in (204, 304) or self.method == "HEAD":
            self.length = 0
        kept = self.fields.get("connection", "" if minor else "close").lower()
        self.will_close = "close" in kept or (self.length is None and not self.chunked)

    def __init__(self, sock: socket.socket, method: str) -> None:
        super().__init__(sock, method=method)
        self.method = method

    def _head(self) -> tuple[int, bool, dict[str, str]]:
        """Return a status, whether it is of HTTP/1.1, and headers. Raises HTTPException."""
        first = self._line().split(None, 2)
        if not first:
            raise http.client.RemoteDisconnected("the server closed the connection")
        if len(first) < 2 or first[0] not in (b"HTTP/1.1", b"HTTP/1.0") or not first[1].isdigit():
            raise http.client.BadStatusLine(repr(b" ".join(first)[:80]))
        found: dict[str, str] = {}
        for _ in range(_MAX_HEADERS):
            line = self._line()
            if line in (b"\r\n", b"\n"):
                return int(first[1]), first[0] == b"HTTP/1.1", found
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                break
            known, value = found.get(name := name.lower()), value.strip()
            found[name] = value if known is None else f"{known}, {value}"
        raise http.client.HTTPException("the head of the response broke off, or is none")

    def _line(self) -> bytes:
        line: bytes = self.fp.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            raise http.client.LineTooLong("header line")
        return line
