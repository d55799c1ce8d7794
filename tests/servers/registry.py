"""A registry for tests that goes wrong on demand: real HTTP on loopback, manifests and blobs in memory."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlencode, urlsplit

_INDEX = "application/vnd.oci.image.index.v1+json"


class RegistryServer:
    """no_head: the status that every HEAD is answered with; 0 where it is answered as it should be.
    referrers: whether it knows the call for them (distribution-spec 1.1), `page` rows at a time; shown: whether
    it says so of a manifest with a subject. etags: whether it gives ETags and minds If-Match and If-None-Match. immutable: the
    status that the second write of a tag gets; 0 where tags can be moved. refused: the status that a manifest with a subject gets; 0 where it is taken. before_put: called before a manifest
    is stored, with its path.

    content: what is there, by path below `/v2/NAME/` (`manifests/TAG`, `blobs/sha256:...`), with its type.
    """

    def __init__(
        self,
        *,
        no_head: int = 0,
        referrers: bool = False,
        page: int = 2,
        etags: bool = False,
        immutable: int = 0,
    ) -> None:
        self.no_head, self.referrers, self.page, self.shown = no_head, referrers, page, True
        self.etags, self.immutable = etags, immutable
        self.refused = 0
        self.before_put: Callable[[str], None] = lambda _path: None
        self.content: dict[str, tuple[bytes, str]] = {}
        self.calls: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"state": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def writes(self, part: str) -> list[str]:
        """The paths that were written, of those that have a text in them."""
        return [path for method, path in self.calls if method == "PUT" and part in path]

    def referring(self, digest: str, kind: str) -> list[dict[str, Any]]:
        """The rows of an image's referrers, of one type or of all."""
        rows = []
        for path, (data, media_type) in sorted(self.content.items()):
            if not path.startswith("manifests/sha256:"):
                continue
            value = json.loads(data)
            if value.get("subject", {}).get("digest") != digest:
                continue
            row = {"mediaType": media_type, "digest": path.partition("/")[2], "size": len(data)}
            row["artifactType"] = value.get("artifactType") or value["config"]["mediaType"]
            rows.append(row | {"annotations": value.get("annotations", {})})
        return [row for row in rows if kind in ("", row["artifactType"])]

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
    wbufsize = -1
    """An answer is sent as a whole: its body does not wait until its head was acknowledged."""

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
        place = self._place
        if place.startswith("referrers/") and self.state.referrers:
            return self._referrers(place.partition("/")[2])
        body, kind = self.state.content.get(place, (None, ""))
        if body is None:
            return self._answer(404)
        digest = _digest(body)
        etag = {"ETag": f'"{digest}"'} if self.state.etags else {}
        return self._answer(200, body, Content_Type=kind, Docker_Content_Digest=digest, **etag)

    def _referrers(self, digest: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        kind, start = query.get("artifactType", [""])[0], int(query.get("start", ["0"])[0])
        rows = self.state.referring(digest, kind)
        end = start + self.state.page
        value = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": rows[start:end]}
        more = {"OCI_Filters_Applied": "artifactType"} if kind else {}
        if end < len(rows):
            wanted = urlencode({"start": end} | ({"artifactType": kind} if kind else {}))
            more["Link"] = f'<{urlsplit(self.path).path}?{wanted}>; rel="next"'
        self._answer(200, json.dumps(value).encode(), Content_Type=_INDEX, **more)

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
        elif place.startswith("manifests/"):
            self.state.before_put(place)
        subject = json.loads(body).get("subject") if place.startswith("manifests/") else None
        if subject and self.state.refused:
            return self._answer(self.state.refused)
        with self.state.lock:
            there = self.state.content.get(place, (None, ""))[0]
            wanted = self.headers.get("If-Match")
            if self.state.etags and wanted and (there is None or wanted != f'"{_digest(there)}"'):
                return self._answer(412)
            if self.state.etags and self.headers.get("If-None-Match") == "*" and there is not None:
                return self._answer(412)
            if self.state.immutable and there not in (None, body) and place.startswith("manifests/"):
                return self._answer(self.state.immutable)
            kind = self.headers.get("Content-Type", "")
            self.state.content[place] = (body, kind)
            if place.startswith("manifests/"):
                self.state.content[f"manifests/{_digest(body)}"] = (body, kind)
        if subject and self.state.referrers and self.state.shown:
            return self._answer(201, OCI_Subject=subject["digest"])
        return self._answer(201)


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
