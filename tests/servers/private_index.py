"""A server that asks for a password: an index of Python packages, a registry of npm's, and files."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass
class PrivateIndex:
    """What is served, by its path. refused: requests without the password; granted: those with it.

    basic: accepted pairs USER:PASSWORD; bearer: accepted tokens.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    basic: set[str] = field(default_factory=set)
    bearer: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    granted: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def folder(self, prefix: str, folder: Path) -> None:
        """Serve the files of a directory."""
        for path in folder.iterdir():
            if path.is_file():
                self.files[f"{prefix}/{path.name}"] = path.read_bytes()

    def wheel(self, name: str, version: str) -> None:
        """Add a Python package that has a version and nothing else."""
        info = f"{name}-{version}.dist-info"
        content = {
            f"{name}.py": f"version = {version!r}\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for path, text in content.items():
                archive.writestr(path, text)
        file = f"{name}-{version}-py3-none-any.whl"
        digest = hashlib.sha256(made.getvalue()).hexdigest()
        self.files[f"/simple/files/{file}"] = made.getvalue()
        link = f'<a href="../files/{file}#sha256={digest}">{file}</a>'
        self.files[f"/simple/{name}/"] = f"<!DOCTYPE html><html><body>{link}</body></html>".encode()

    def module(self, name: str, version: str, *, prefix: str = "/npm") -> None:
        """Add a package of npm's that has a version and nothing else."""
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w:gz") as archive:
            for path, text in {
                "package/package.json": json.dumps({"name": name, "version": version, "main": "index.js"}),
                "package/index.js": f"module.exports = {json.dumps(version)};\n",
            }.items():
                member = tarfile.TarInfo(path)
                member.size, member.mtime = len(text), 1_700_000_000
                archive.addfile(member, io.BytesIO(text.encode()))
        data = made.getvalue()
        place = f"{prefix}/{name}/-/{name}-{version}.tgz"
        self.files[place] = data
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        one = {
            "name": name, "version": version,
            "dist": {"tarball": f"{self.url}{place}", "integrity": integrity, "shasum": hashlib.sha1(data).hexdigest()},
        }  # fmt: skip
        document = {"name": name, "dist-tags": {"latest": version}, "versions": {version: one}}
        self.files[f"{prefix}/{name}"] = json.dumps(document).encode()

    def grants(self, header: str) -> bool:
        """Whether an Authorization header has a password that is good here."""
        kind, _, value = header.partition(" ")
        if kind.lower() == "bearer":
            return value in self.bearer
        with contextlib.suppress(ValueError):
            return kind.lower() == "basic" and base64.b64decode(value).decode() in self.basic
        return False

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Serve it on a port of loopback; the files may be added inside of the block."""
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(self.path.partition("?")[0]).replace("/./", "/")
                if not index.grants(self.headers.get("Authorization", "")):
                    index.refused.append(path)
                    self.answer(401, b"", **{"WWW-Authenticate": 'Basic realm="private"'})
                    return
                index.granted.append(path)
                data = index.files.get(path)
                kind = "text/html" if path.endswith("/") else "application/octet-stream"
                kind = "application/json" if path.startswith("/npm/") and "/-/" not in path else kind
                self.answer(404 if data is None else 200, data or b"", **{"Content-Type": kind})

            def do_HEAD(self) -> None:
                self.do_GET()

            def answer(self, status: int, data: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Not on the test's output."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
