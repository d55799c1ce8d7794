"""Commands on another host: by ssh, over one connection for all of them, and files by rsync over the same.

Nothing is asked (BatchMode), and a host whose key is not known is refused. The connection is shared by
OpenSSH's ControlMaster, whose socket is in a private directory; it ends with this process, or, when that is
killed, by itself.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import shlex
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import unquote, urlsplit

from buildstep.errors import CommandFailed, StoreError, UsageError
from buildstep.files import remote
from buildstep.files.interface import Access
from buildstep.net.errors import clean_text
from buildstep.net.http import backoff_seconds
from buildstep.system import process

T = TypeVar("T")

_PIPE = -1  # what `subprocess` calls PIPE
SSH_FAILED = 255  # ssh's own status when it is ssh that failed
_LONGEST_SOCKET = 80
"""Bytes of a path of a socket that leave room for what ssh adds; the kernel takes 108."""
_PERSIST = 60
_RSYNC_TEMPORARY = frozenset({10, 12, 30, 35, SSH_FAILED})
"""Statuses of rsync that another try may not meet: socket, protocol stream, time-outs."""
_FINAL = {
    "host key verification failed": "connect once by hand, or add its key to known_hosts: ssh-keyscan HOST",
    "permission denied": "load a key that the host accepts into an ssh-agent, or configure it for ssh",
    "could not resolve hostname": "check the host's name",
    "no matching host key": "the host offers only kinds of keys that are not accepted here",
    "bad configuration option": "see the file that BUILDSTEP_SSH_CONFIG names",
    "can't open user config file": "BUILDSTEP_SSH_CONFIG names a file that cannot be read",
}
"""What ssh says where another try would meet the same, and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a store is. path: absolute, or from the user's home, then with `./` at its beginning; empty
    where the host itself is meant."""

    host: str
    path: str = ""
    user: str = ""
    port: int = 0

    @classmethod
    def parse(cls, url: str) -> Target:
        """Read `ssh://[USER@]HOST[:PORT]/PATH`; a path `/~/x` is from the user's home. Raises UsageError."""
        wrong = UsageError(
            f"{clean_text(url, 200)!r} is no address of a store",
            hint="such as ssh://user@host/srv/store, or ssh://host/~/store from the home directory",
        )
        try:
            parts = urlsplit(url)
            host, port, user = parts.hostname or "", parts.port or 0, unquote(parts.username or "")
        except ValueError:
            raise wrong from None
        path = unquote(parts.path).rstrip("/")
        if parts.password is not None:
            raise UsageError("an address of ssh takes no password", hint="use a key, in an ssh-agent")
        # A name that begins with a hyphen would be an option.
        if not host or host.startswith("-") or user.startswith("-") or parts.query or parts.fragment:
            raise wrong
        if not path or not path.isprintable() or ".." in path.split("/"):
            raise wrong
        return cls(host, f".{path[2:]}" if path.startswith("/~/") else path, user, port)

    @classmethod
    def parse_host(cls, url: str) -> Target:
        """Read `ssh://[USER@]HOST[:PORT]`. Raises UsageError."""
        try:
            found = cls.parse(f"{url.rstrip('/')}/~/any")
            if found.path != "./any":
                raise UsageError("it has a path")
        except UsageError:
            raise UsageError(
                f"{clean_text(url, 200)!r} is no address of a host", hint="such as ssh://user@host:22"
            ) from None
        return cls(found.host, "", found.user, found.port)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        path = self.path if self.path.startswith("/") or not self.path else f"/~{self.path[1:]}"
        return (
            f"ssh://{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}{path}"
        )

    def rsync_path(self, name: str) -> str:
        """Return a name in the store as rsync takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user + '@' if self.user else ''}{host}:{self.path}/{name}"


class Link:
    """A host. May be used by several threads. Raises StoreError; ToolMissing without ssh or rsync."""

    def __init__(self, target: Target, access: Access) -> None:
        self._target = target
        self._options = access.http
        self._bus = access.bus
        environ = access.environ
        self._config = environ.get("BUILDSTEP_SSH_CONFIG", "")
        agent = {"SSH_AUTH_SOCK": environ["SSH_AUTH_SOCK"]} if environ.get("SSH_AUTH_SOCK") else {}
        self.env = process.base_env({**os.environ, **environ}, **agent)
        self._guard = threading.Lock()
        self._connected = False
        self._socket = ""
        self._end: Callable[[], object] | None = None

    def close(self) -> None:
        """End the connection. The next call makes another."""
        with self._guard:
            if self._end is not None:
                self._end()
            self._connected, self._socket, self._end = False, "", None

    def call(
        self, script: str, *args: str, data: bytes | IO[bytes] = b"", ok: Sequence[int] = (0,)
    ) -> tuple[int, bytes]:
        """Run a script by `sh`, once; return its status and what it printed.

        data: its standard input, a file from where it stands. ok: statuses that are no failure.
        """
        argv = self.argv_of(script, *args)
        with contextlib.ExitStack() as stack:
            stdin: IO[bytes] | None = None
            if not isinstance(data, bytes):
                stdin = data
            elif data:
                stdin = stack.enter_context(tempfile.TemporaryFile())
                stdin.write(data)
                stdin.seek(0)
            try:
                with process.spawn(
                    argv,
                    env=self.env,
                    ok=ok,
                    stdin=stdin or stack.enter_context(open(os.devnull, "rb")),
                    stdout=_PIPE,
                    timeout=self._options.response,
                ) as child:
                    assert child.stdout is not None
                    output = self._read(child.stdout.fileno())
            except CommandFailed as error:
                raise self.explained(error, retryable=error.status == SSH_FAILED) from error
        return int(child.returncode), output

    def argv_of(self, script: str, *args: str) -> list[str]:
        """Return the command that runs a script by `sh` there, to be started in the environment `env` by who
        talks with it over its pipes. The first call connects."""
        command = shlex.join(["exec", "sh", "-c", script, "buildstep", *args])
        return [*self._ssh(), *self._destination(), command]

    def _read(self, fd: int) -> bytes:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        pieces: list[bytes] = []
        while True:
            if not poll.poll(self._options.response * 1000):
                raise StoreError(
                    f"{self._target.url}: nothing came for {self._options.response:g} s", retryable=True
                )
            data = os.read(fd, 1 << 18)
            if not data:
                return b"".join(pieces)
            pieces.append(data)

    def send(self, source: Path, name: str) -> None:
        """Copy a file to a name in the store; what an interrupted try has brought over is used again."""
        self._rsync(os.fspath(source), self._target.rsync_path(name))

    def receive(self, name: str, target: Path) -> None:
        """Copy a file of the store to this machine. Raises StoreError, also if it is not there."""
        self._rsync(self._target.rsync_path(name), os.fspath(target))

    def _rsync(self, source: str, target: str) -> None:
        def once() -> None:
            argv = [
                "rsync", "--protect-args", "--no-motd", "--partial-dir=.partial",
                f"--timeout={math.ceil(self._options.response)}", "--rsh", shlex.join(self._ssh()),
                "--", source, target,
            ]  # fmt: skip
            try:
                process.query(argv, env=self.env, timeout=process.STAGE)
            except CommandFailed as error:
                raise self.explained(error, retryable=error.status in _RSYNC_TEMPORARY) from error

        self.retrying(once)

    def retrying(self, call: Callable[[], T]) -> T:
        """Make a call; repeat it after a pause if its failure may be temporary."""
        attempt = 1
        while True:
            try:
                return call()
            except StoreError as error:
                if not error.retryable or attempt >= self._options.attempts:
                    raise
                seconds = backoff_seconds(self._options.backoff, attempt)
                self._bus.note(f"{error.message}; trying again in {seconds:.1f} s", level="warning")
                time.sleep(seconds)
                attempt += 1

    def explained(self, error: CommandFailed, *, retryable: bool) -> StoreError:
        """Return what a command that failed means, with a hint where it is known."""
        said = error.detail.rpartition("\ncommand: ")[0]
        lines = [clean_text(line, 300) for line in said.splitlines() if line.strip()]
        # rsync's last line repeats only that something failed.
        told = next((line for line in reversed(lines) if not line.startswith("rsync error:")), "")
        why = told or f"{Path(error.argv[0]).name} ended with status {error.status}"
        for text, hint in _FINAL.items():
            if text in said.lower():
                return StoreError(f"{self._target.url}: {why}", detail=said, hint=hint)
        hint = "is the host up, and reached by this name and port?" if error.status == SSH_FAILED else ""
        return StoreError(f"{self._target.url}: {why}", detail=said, hint=hint, retryable=retryable)

    # -- ssh -----------------------------------------------------------------------------------------------

    def _ssh(self) -> list[str]:
        """Return ssh and its options. The first call makes the connection that all share."""
        with self._guard:
            if not self._connected:
                if not self._socket:
                    self._socket = self._make_socket()
                argv = [*self._argv(), *self._destination(), ":"]
                try:
                    process.query(argv, env=self.env, timeout=2 * self._options.response)
                except CommandFailed as error:
                    raise self.explained(error, retryable=True) from error
                self._connected = True
        return self._argv()

    def _make_socket(self) -> str:
        """Return the path of the connection's socket; empty where none can be, as the path is too long."""
        stack = contextlib.ExitStack()
        path = str(stack.enter_context(remote.spool()) / "s")
        self._end = weakref.finalize(self, _leave, path, self.env, stack, os.getpid())
        return path if len(os.fsencode(path)) <= _LONGEST_SOCKET else ""

    def _argv(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": str(max(1, int(self._options.connect))),
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "3",
            "LogLevel": "ERROR",
        }
        if self._socket:
            options |= {
                "ControlMaster": "auto",
                "ControlPath": self._socket,
                "ControlPersist": str(_PERSIST),
            }
        argv = ["ssh", *(["-F", self._config] if self._config else []), "-T", "-x", "-a"]
        argv += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        if self._target.port:
            argv += ["-p", str(self._target.port)]
        return argv

    def _destination(self) -> list[str]:
        user = ["-l", self._target.user] if self._target.user else []
        return [*user, "--", self._target.host]


def _leave(socket: str, env: Mapping[str, str], stack: contextlib.ExitStack, owner: int) -> None:
    """End a connection; in a fork of the process that made it nothing is done."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(CommandFailed), stack:
        if os.path.exists(socket):
            process.query(["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "any"], env=env, timeout=5.0)
