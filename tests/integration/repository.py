"""A Debian repository of our own on a port of this machine, and a base image that installs from it alone."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from buildstep.system import process
from tests.integration.conftest import debian_root
from tests.integration.yard import Yard


def make_place(top: Path) -> Yard:
    """A pool, and a Debian base whose only source is a repository on the port that is in the file `port`."""
    port = free_port()
    sources = top / "etc/apt/sources.list"
    sources.parent.mkdir(parents=True)
    sources.write_text(f"deb [trusted=yes] http://127.0.0.1:{port}/ ./\n")
    base = top / "base.tar"
    kept_out = ("./etc/apt/sources.list", "./etc/apt/sources.list.d/*")
    whole = ["tar", "-cf", os.fspath(base), *(f"--exclude={path}" for path in kept_out)]
    process.run([*whole, "-C", os.fspath(debian_root()), "."])
    process.run(["tar", "-rf", os.fspath(base), "-C", os.fspath(top), "./etc/apt/sources.list"])
    made = Yard(
        pool=f"overlay:{top / 'pool'}", out=top / "out", proto=top / "proto", base=base, formats=("oci",),
        environ={"BUILDSTEP_NETWORK_ALLOW": f"127.0.0.1:{port}"},
    )  # fmt: skip
    made.proto.mkdir()
    (made.proto / "file").write_text("0\n")
    (top / "port").write_text(str(port))
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key that signs repositories. home: of gpg; name: its long id."""

    home: Path
    name: str

    @classmethod
    def make(cls, home: Path) -> Key:
        home.mkdir(mode=0o700)
        made = cls(home=home, name="")
        made.gpg("--passphrase", "", "--quick-gen-key", "Tests <a@example.com>", "ed25519", "sign", "0")
        rows = made.gpg("--with-colons", "--list-keys").decode().splitlines()
        return replace(made, name=next(row.split(":")[4] for row in rows if row.startswith("pub:")))

    def gpg(self, *words: str, data: bytes = b"") -> bytes:
        argv = ["gpg", "--homedir", os.fspath(self.home), "--batch", "--quiet", *words]
        return subprocess.run(argv, input=data, capture_output=True, check=True).stdout

    def public(self) -> bytes:
        return self.gpg("--export")

    def signed(self, text: str) -> bytes:
        return self.gpg("--clearsign", data=text.encode())


def release(published: float, *files: tuple[str, bytes], **fields: str) -> str:
    """A Release file of that time. fields: more of them, a _ in a name for a dash."""
    more = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in fields.items())
    sums = "".join(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n" for name, data in files)
    return f"Date: {stamp(published)}\nSuite: made\n{more}SHA256:\n{sums}"


def stamp(seconds: float) -> str:
    """A time as a Release file has it."""
    return time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(seconds))


class Repository:
    """A flat repository of packages made by dpkg-deb, served as long as a block lasts.

    asked: requests; key: signs it, if there is one; fields: more of its Release file.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.asked: list[tuple[str, int]] = []
        self.key: Key | None = None
        self.fields: dict[str, str] = {}
        self._packages: dict[str, str] = {}
        self._published = int(time.time()) - 3600
        folder.mkdir()

    def put(
        self,
        name: str,
        version: str,
        *,
        depends: str = "",
        recommends: str = "",
        postinst: str = "",
        files: Mapping[str, str] | None = None,
        extra: Mapping[str, str] | None = None,
        modes: Mapping[str, int] | None = None,
        folders: Sequence[str] = (),
    ) -> None:
        """Add a package, or replace it by another version. files: more files, by path; extra: more control
        files; modes: permissions of files and folders, by path; folders: empty ones."""
        tree = self.folder.parent / f"{name}-tree"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / f"usr/share/{name}").mkdir(parents=True)
        (tree / f"usr/share/{name}/made").write_text(f"{version}\n")
        lines = [
            f"Package: {name}", f"Version: {version}", "Architecture: all", "Maintainer: A <a@example.com>",
            *([f"Depends: {depends}"] if depends else []),
            *([f"Recommends: {recommends}"] if recommends else []), f"Description: {name}",
        ]  # fmt: skip
        control = "\n".join(lines) + "\n"
        (tree / "DEBIAN/control").write_text(control)
        if postinst:
            (tree / "DEBIAN/postinst").write_text(postinst)
            (tree / "DEBIAN/postinst").chmod(0o755)
        for path, text in {**(files or {}), **{f"DEBIAN/{k}": v for k, v in (extra or {}).items()}}.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)
            if text.startswith("#!"):
                (tree / path).chmod(0o755)
        for path in folders:
            (tree / path).mkdir(parents=True)
        for path, mode in (modes or {}).items():
            (tree / path).chmod(mode)
        deb = self.folder / f"{name}_{version}_all.deb"
        process.query(
            ["dpkg-deb", "-Znone", "--build", "--root-owner-group", os.fspath(tree), os.fspath(deb)]
        )
        data = deb.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        self._packages[name] = f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {digest}\n\n"
        self.publish()

    def publish(self) -> None:
        """Write the index: Packages, and a Release with its digests."""
        packages = "".join(self._packages[name] for name in sorted(self._packages)).encode()
        files = {"Packages": packages, "Packages.gz": gzip.compress(packages, mtime=0)}
        # A server tells an index from another by the second: each is two younger than the last.
        self._published += 2
        text = release(self._published, *files.items(), **self.fields)
        files["Release"] = text.encode()
        if self.key is not None:
            files["InRelease"] = self.key.signed(text)
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
            os.utime(self.folder / name, (self._published, self._published))

    @contextlib.contextmanager
    def served(self, tls: ssl.SSLContext | None = None) -> Iterator[None]:
        """tls: for a server of https."""
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                asked.append((self.path, int(code)))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Not on the test's output."""

        ThreadingHTTPServer.allow_reuse_address = True
        server = ThreadingHTTPServer(
            ("127.0.0.1", self.port), partial(Handler, directory=os.fspath(self.folder))
        )
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def make_repository(place: Yard, folder: Path) -> Repository:
    """An empty repository for the place's base; and builds that know nothing of any before."""
    made = Repository(folder, int((place.out.parent / "port").read_text()))
    for name in ("resolved", "artifacts", "packages"):
        shutil.rmtree(place.out.parent / "pool/state" / name, ignore_errors=True)
    return made


def clear_layers(place: Yard) -> None:
    """No layer of another test is nearer than those of this one."""
    top = place.out.parent / "pool"
    for folder in ("layer", "state/layers"):
        shutil.rmtree(top / folder, ignore_errors=True)
    if top.exists():
        (top / "layer").mkdir()
