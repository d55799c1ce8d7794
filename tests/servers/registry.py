"""A registry for tests that goes wrong on demand: real HTTP on loopback, manifests and blobs in memory."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit


class RegistryServer:
    """no_head: the status that every HEAD is answered with; 0 where it is answered as it should be.

    content: what is there, by path below `/v2/NAME/` (`manifests/TAG`, `blobs/sha256:...`), with its type.
    """

    def __init__(self, *, no_head: int = 0) -> None:
        self.no_head = no_head
        self.content: dict[str, tuple[bytes, str]] = {}
        self.calls: list[tuple[str, str]] = []
        handler = type("Handler", (_Handler,), {"state": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: ClassVar[Any]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing on the terminal."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    @property
    def _place(self) -> str:
        """The path below the repository, whose name has one part."""
        path = urlsplit(self.path).path.removeprefix("/v2/").partition("/")[2]
        self.state.calls.append((self.command, path))
        return path

    def do_GET(self) -> None:
        if self.path == "/v2/":
            return self._answer(200)
        body, kind = self.state.content.get(self._place, (None, ""))
        if body is None:
            return self._answer(404)
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        return self._answer(200, body, Content_Type=kind, Docker_Content_Digest=digest)

    def do_HEAD(self) -> None:
        if self.state.no_head:
            assert self._place
            return self._answer(self.state.no_head)
        return self.do_GET()

    def do_POST(self) -> None:
        assert self._place
        self._body()
        self._answer(202, Location=f"{self.path}1")

    def do_PUT(self) -> None:
        place, body = self._place, self._body()
        if place.startswith("blobs/uploads/"):
            place = "blobs/" + parse_qs(urlsplit(self.path).query)["digest"][0]
        self.state.content[place] = (body, self.headers.get("Content-Type", ""))
        self._answer(201)
