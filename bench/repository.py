"""A repository with one package, whose version is raised: what a mirror does between two builds.

It is served on loopback: apt in an image does not see the machine's own disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = "bench-tool"


class Repository:
    """A directory with packages, and its server, which ends with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        handler = partial(_Quiet, directory=os.fspath(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def publish(self, number: int) -> str:
        """Have version 1.NUMBER of the package, and no other. Returns what apt is asked for."""
        return publish(self._folder, number)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the name is its
        pass


def publish(folder: Path, number: int) -> str:
    """Have version 1.NUMBER of the package, and no other, in a repository. Returns what apt is asked for."""
    version = f"1.{number}"
    tree = folder.with_name(f"{folder.name}-tree")
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/lib/bench-tool").mkdir(parents=True)
    for index in range(40):
        (tree / f"usr/lib/bench-tool/part{index}").write_text(f"{version} {index}\n" * 500)
    control = (
        f"Package: {NAME}\nVersion: {version}\nArchitecture: all\nMaintainer: Bench <bench@localhost>\n"
        "Depends: libc6\nDescription: a package whose version is raised\n"
    )
    (tree / "DEBIAN/control").write_text(control)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = folder / f"{NAME}_{version}_all.deb"
    argv = ["dpkg-deb", "--root-owner-group", "--build", os.fspath(tree), os.fspath(file)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    data = file.read_bytes()
    row = (
        f"{control}Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n"
    )
    (folder / "Packages").write_text(row)
    digest = hashlib.sha256(row.encode()).hexdigest()
    (folder / "Release").write_text(f"Suite: bench\nSHA256:\n {digest} {len(row)} Packages\n")
    shutil.rmtree(tree)
    return f"{NAME}={version}"
