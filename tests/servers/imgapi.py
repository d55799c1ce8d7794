"""An IMGAPI server for tests: real HTTP on loopback, state in memory, and every fault on demand."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import json
import re
import threading
import time
import uuid as uuids
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, urlsplit

from buildstep.spec import imgmanifest

HOLD = 20.0
"""The longest that a fault keeps a connection open: no test can hang for longer."""

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_STATUS = {
    "ValidationFailed": 422, "InvalidParameter": 422, "ImageFilesImmutable": 422, "ImageAlreadyActivated": 422,
    "NoActivationNoFile": 422, "OriginDoesNotExist": 422, "ImageHasDependentImages": 422,
    "ImageUuidAlreadyExists": 409, "UnauthorizedError": 401, "Upload": 400, "InvalidVersion": 400,
    "InvalidContent": 400, "ResourceNotFound": 404, "InternalError": 500, "ServiceUnavailableError": 503,
    "MethodNotAllowedError": 405,
}  # fmt: skip


@dataclass
class Fault:
    """Something to go wrong for calls that match. times: for how many of them.

    Kinds: a number (answered with that status), `silent` (nothing is answered), `silent-500` (a 500 with a
    full Content-Length and an open connection), `drip` (a byte now and then), `drip-head`, `truncate`
    (closed after half), `flip` (one byte wrong), `long` (Content-Length too large), `lost` (done, but
    the connection closes without an answer), `early-422` (refused before the body was read).
    """

    kind: str
    method: str = "GET"
    path: str = ".*"
    times: int = 1


@dataclass
class Stored:
    manifest: dict[str, Any]
    file: bytes = b""
    channels: set[str] = field(default_factory=set)


class _Refusal(Exception):
    def __init__(self, code: str, message: str = "", errors: list[dict[str, str]] | None = None) -> None:
        self.code, self.message, self.errors = code, message or code, errors


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """A client that gives up is what most tests here are about."""


class ImgapiServer:
    """users: names and their ssh public keys (as cryptography objects); where given, writes need a signature."""

    def __init__(
        self,
        *,
        users: Mapping[str, Any] | None = None,
        channels: tuple[str, ...] = (),
        ranges: bool = False,
        clock: float = 0.0,
    ) -> None:
        self.images: dict[str, Stored] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, int]] = []
        self.requests: list[dict[str, Any]] = []
        """Each call as it came: method, route, query, headers (names in lower case), body as text."""
        self.ranges_asked: list[str] = []
        self.users, self.channels, self.ranges, self.clock = dict(users or {}), channels, ranges, clock
        self.page = 1000
        self.died = ""
        self.busy = self.most_busy = 0
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        handler = type("Handler", (_Handler,), {"state": self})
        self._server = _QuietServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, file: bytes = b"content", *, channel: str = "", **fields: Any) -> dict[str, Any]:
        """An active image; returns its manifest."""
        number = len(self.images)
        manifest = {
            "v": 2,
            "uuid": str(uuids.UUID(int=(0xABC << 96) + number)),
            "owner": imgmanifest.NIL_UUID,
            "name": f"image{number}",
            "version": "1.0.0",
            "type": "other",
            "os": "linux",
            "state": "active",
            "disabled": False,
            "public": True,
            "published_at": f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}.000Z",
            "files": [{"size": len(file), "sha1": hashlib.sha1(file).hexdigest(), "compression": "none"}],
            **fields,
        }
        channels = {channel} if channel else set(self.channels[:1])
        self.images[manifest["uuid"]] = Stored(manifest, file, channels)
        return manifest

    def fail(self, kind: str, *, method: str = "GET", path: str = ".*", times: int = 1) -> None:
        self.faults.append(Fault(kind, method, path, times))

    def calls(self, method: str, path: str = "") -> int:
        """How many calls of this kind came."""
        return sum(1 for m, p, _ in self.log if m == method and re.search(path, p))

    def take_fault(self, method: str, path: str) -> str:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault.kind
        return ""


class _Handler(BaseHTTPRequestHandler):
    state: ClassVar[ImgapiServer]
    protocol_version = "HTTP/1.1"
    server_version = "imgapi/4.13.1"
    timeout = HOLD

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815 - names that http.server looks for

    # -- one call -------------------------------------------------------------------------------------

    def _serve(self) -> None:
        with self.state.lock:
            self.state.busy += 1
            self.state.most_busy = max(self.state.most_busy, self.state.busy)
        try:
            with contextlib.suppress(OSError):
                self._handle()
        finally:
            with self.state.lock:
                self.state.busy -= 1

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        self.route = re.sub(r"^/prefix", "", parts.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.fault = self.state.take_fault(self.command, self.route)
        if self.fault == "early-422":
            self._answer(422, {"code": "ValidationFailed", "message": "refused before it was read"})
            self.close_connection = True
            self._hold(1.0)  # as a server that is still reading elsewhere: its answer must not be a reset
            return
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        self.state.requests.append(
            {
                "method": self.command, "route": self.route, "query": self.query,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "body": self.body.decode(errors="replace"),
            }
        )  # fmt: skip
        if self.fault == "silent":
            self._record(0)
            self._hold()
            return
        if self.fault.isdigit():
            self._answer(int(self.fault), {"code": "InternalError", "message": "injected"})
            return
        try:
            self._check_head()
            with self.state.lock:
                status, value = self._dispatch()
        except _Refusal as refusal:
            body: dict[str, Any] = {"code": refusal.code, "message": refusal.message}
            if refusal.errors:
                body["errors"] = refusal.errors
            status, value = _STATUS[refusal.code], body
        if self.fault == "lost":
            self._record(status)
            self.close_connection = True
            return
        if isinstance(value, bytes):
            self._send_file(value)
        else:
            self._answer(status, value)

    def _hold(self, seconds: float = HOLD) -> None:
        self.close_connection = True
        self.state.stopping.wait(seconds)

    def _record(self, status: int) -> None:
        self.state.log.append((self.command, self.path, status))

    def _answer(self, status: int, value: Any) -> None:
        self._record(status)
        data = b"" if status == 204 else json.dumps(value, indent=2).encode()
        if self.fault == "drip-head":
            for byte in b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 1000:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.state.stopping.wait(0.05):
                    return
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("x-request-id", self.headers.get("x-request-id", ""))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return email.utils.formatdate(time.time() + self.state.clock, usegmt=True)

    def _send_file(self, data: bytes) -> None:
        asked = self.headers.get("Range", "")
        start, status = 0, 200
        if asked:
            self.state.ranges_asked.append(asked)
            if self.state.ranges:
                start, status = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]), 206  # type: ignore[index]
        whole = len(data)
        if self.fault == "flip":
            data = data[: whole // 2] + bytes([data[whole // 2] ^ 1]) + data[whole // 2 + 1 :]
        data = data[start:]
        self._record(500 if self.fault == "silent-500" else status)
        self.send_response(500 if self.fault == "silent-500" else status)
        self.send_header("Content-Length", str(len(data) + (7 if self.fault == "long" else 0)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if self.state.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-MD5", base64.b64encode(hashlib.md5(data).digest()).decode())
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        if self.fault == "silent-500":
            self._hold()
        elif self.fault == "drip":
            for i in range(len(data)):
                self.wfile.write(data[i : i + 1])
                self.wfile.flush()
                if self.state.stopping.wait(0.05):
                    return
        elif self.fault in ("truncate", "stall"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            if self.fault == "stall":
                self._hold()
        else:
            self.wfile.write(data)

    def _check_head(self) -> None:
        if self.headers.get("Accept-Version", "~1") not in ("~1", "~2"):
            raise _Refusal("InvalidVersion")
        try:
            uuids.UUID(self.headers.get("x-request-id") or str(uuids.UUID(int=0)))  # without one all is well
        except ValueError:
            self.state.died = f"{self.command} {self.path} had no uuid as its x-request-id"
            raise _Refusal("InternalError", self.state.died) from None
        if self.headers.get("Authorization"):
            self._check_signature()
        elif self.state.users and self.command != "GET":
            raise _Refusal("UnauthorizedError", "no signature")

    def _check_signature(self) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        found = dict(re.findall(r'(\w+)="([^"]*)"', self.headers["Authorization"]))
        date = self.headers.get("Date", "")
        key = self.state.users.get(found.get("keyId", ""))
        skew = abs(time.time() + self.state.clock - email.utils.parsedate_to_datetime(date).timestamp())
        if key is None or found.get("algorithm") != "rsa-sha256" or skew > 300:
            raise _Refusal("UnauthorizedError", "unknown user, other algorithm or clock skew")
        try:
            key.verify(
                base64.b64decode(found["signature"]),
                f"date: {date}".encode(),
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
        except InvalidSignature:
            raise _Refusal("UnauthorizedError", "wrong signature") from None

    # -- what the API does ------------------------------------------------------------------------------

    def _dispatch(self) -> tuple[int, Any]:
        if self.command == "HEAD":
            raise _Refusal("MethodNotAllowedError")
        if self.route == "/ping":
            return 200, {"ping": "pong", "version": "4.13.1", "imgapi": True}
        if self.route == "/images" and self.command == "GET":
            return 200, self._list()
        if self.route == "/channels" and self.state.channels:
            return 200, [
                {"name": name, "description": name, **({"default": True} if i == 0 else {})}
                for i, name in enumerate(self.state.channels)
            ]
        if found := re.fullmatch(f"/images/({_UUID})(/file)?", self.route):
            return self._image(found[1], file=bool(found[2]))
        raise _Refusal("ResourceNotFound", f"{self.route} does not exist")

    def _channel(self) -> str:
        if not self.state.channels:
            return ""
        return self.query.get("channel", self.state.channels[0])

    def _find(self, uuid: str) -> Stored:
        found, channel = self.state.images.get(uuid), self._channel()
        if found is None or (channel not in ("", "*") and channel not in found.channels):
            raise _Refusal("ResourceNotFound", f"image {uuid} not found")
        return found

    def _shown(self, stored: Stored) -> dict[str, Any]:
        shown = {key: value for key, value in stored.manifest.items() if key != "activated"}
        if self.state.channels and self.headers.get("Accept-Version") == "~2":
            shown["channels"] = sorted(stored.channels)
        return shown

    def _list(self) -> list[dict[str, Any]]:
        channel = self._channel()
        rows = [
            self._shown(stored)
            for stored in sorted(self.state.images.values(), key=lambda s: s.manifest.get("published_at", ""))
            if stored.manifest["state"] == "active" and (channel in ("", "*") or channel in stored.channels)
        ]
        for name in ("name", "version", "owner", "os", "type"):
            wanted = self.query.get(name)
            if wanted and wanted.startswith("~"):
                rows = [row for row in rows if wanted[1:] in row[name]]
            elif wanted:
                rows = [row for row in rows if row[name] == wanted]
        marker = self.query.get("marker")
        if marker:
            at = next((i for i, row in enumerate(rows) if row["uuid"] == marker), 0)
            rows = rows[at:]  # inclusive
        return rows[: min(int(self.query.get("limit", self.state.page)), self.state.page)]

    def _image(self, uuid: str, *, file: bool) -> tuple[int, Any]:
        action = self.query.get("action", "")
        if self.command == "GET":
            stored = self._find(uuid)
            return 200, stored.file if file else self._shown(stored)
        if self.command == "PUT" and file:
            return 200, self._add_file(uuid)
        if self.command == "DELETE" and not file:
            self._find(uuid)
            if any(s.manifest.get("origin") == uuid for s in self.state.images.values()):
                raise _Refusal("ImageHasDependentImages")
            del self.state.images[uuid]
            return 204, None
        if self.command == "POST" and action == "import":
            return 200, self._import(uuid)
        if self.command == "POST" and action == "activate":
            stored = self._find(uuid)
            if stored.manifest["state"] == "active":
                raise _Refusal("ImageAlreadyActivated")
            if not stored.file:
                raise _Refusal("NoActivationNoFile")
            stored.manifest |= {"state": "active", "activated": True}
            stored.manifest.setdefault("published_at", "2026-01-01T00:00:00.000Z")
            return 200, self._shown(stored)
        if self.command == "POST" and action == "channel-add":
            stored = self._find(uuid)
            stored.channels.add(str(json.loads(self.body)["channel"]))
            return 200, self._shown(stored)
        raise _Refusal("MethodNotAllowedError")

    def _import(self, uuid: str) -> dict[str, Any]:
        try:
            manifest = json.loads(self.body)
        except ValueError:
            raise _Refusal("InvalidContent") from None
        if manifest.get("uuid") != uuid:
            raise _Refusal("InvalidParameter", errors=[{"field": "uuid", "code": "Invalid"}])
        faults = imgmanifest.validate(manifest, limits="accept")
        if faults:
            rows = [
                {"field": f.where.removeprefix("$."), "code": "Invalid", "message": f.message} for f in faults
            ]
            raise _Refusal("ValidationFailed", "bad manifest", rows)
        if manifest.get("origin") and manifest["origin"] not in self.state.images:
            raise _Refusal("OriginDoesNotExist")
        if uuid in self.state.images:
            raise _Refusal("ImageUuidAlreadyExists")
        kept = {key: value for key, value in manifest.items() if key not in ("files", "state", "channels")}
        kept |= {"owner": imgmanifest.NIL_UUID, "state": "unactivated", "activated": False, "disabled": False}
        kept.setdefault("public", False)
        channel = self._channel()
        self.state.images[uuid] = Stored(kept, channels={channel} if channel else set())
        return self._shown(self.state.images[uuid])

    def _add_file(self, uuid: str) -> dict[str, Any]:
        stored = self._find(uuid)
        if stored.manifest["state"] == "active":
            raise _Refusal("ImageFilesImmutable")
        if self.query.get("compression") not in ("gzip", "bzip2", "xz", "none"):
            raise _Refusal("InvalidParameter", errors=[{"field": "compression", "code": "Missing"}])
        sha1 = hashlib.sha1(self.body).hexdigest()
        if not self.body or self.query.get("sha1", sha1) != sha1:
            raise _Refusal("Upload", "sha1 or size is not what was told")
        stored.file = self.body
        if self.fault == "flip":
            sha1 = "0" * 40
        entry = {"size": len(self.body), "sha1": sha1, "compression": self.query["compression"]}
        if self.query.get("dataset_guid"):
            entry["dataset_guid"] = self.query["dataset_guid"]
        stored.manifest["files"] = [entry]
        return self._shown(stored)
