"""What hostile scripts must not touch on the host: files, sockets, services, a process, a key, a device.

Each attack has a directory of its own here, so that what is found names the attack. The directory is watched
by inotify; a secret that turns up in an image was read, whatever way.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import selectors
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_IN_OPEN, _IN_ACCESS, _IN_MODIFY, _IN_ATTRIB, _IN_CREATE, _IN_DELETE = 0x20, 0x1, 0x2, 0x4, 0x100, 0x200
_EVENTS = {
    _IN_OPEN: "opened", _IN_ACCESS: "read", _IN_MODIFY: "written", _IN_ATTRIB: "changed", _IN_CREATE: "created",
    _IN_DELETE: "deleted",
}  # fmt: skip
_ADD_KEY, _KEYCTL, _KEYCTL_INVALIDATE = 248, 250, 21
_USER_KEYRING = -4

_libc = ctypes.CDLL(None, use_errno=True)


def own_address() -> str:
    """Return an address of this machine that is not loopback, or nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return ""
        return str(probe.getsockname()[0])


class Canaries:
    """Canaries for attacks, each by its name. reached: what got through to a socket, as the attack calls itself.

    Enter it before a build, and leave it before `found` is asked for.
    """

    def __init__(self, top: Path, names: list[str], *, uid: int = 0) -> None:
        self.top = top
        self.names = names
        self.uid = uid
        self.word = secrets.token_hex(8)
        self.reached: list[str] = []
        self.touched: dict[str, list[str]] = {name: [] for name in names}
        self.listener = _free_port()
        self._stop = threading.Event()
        self._stack = contextlib.ExitStack()
        self._watches: dict[int, str] = {}
        self._inotify = -1

    # -- what scripts are told ---------------------------------------------------------------------------

    def words(self, name: str) -> dict[str, str]:
        """Return what an attack's text may name: where its canaries are."""
        return {
            "@NAME@": name, "@DIR@": os.fspath(self.folder(name)), "@PORT@": str(self.port), "@PID@": str(self.pid),
            "@ADDRESS@": own_address() or "127.0.0.1", "@ABSTRACT@": self.abstract, "@KEY@": self.key,
            "@LISTEN@": str(self.listener), "@LOOP@": str(self.minor), "@SHM@": str(self.shm_key),
        }  # fmt: skip

    def folder(self, name: str) -> Path:
        return self.top / name

    def secret(self, name: str) -> str:
        return f"secret-{self.word}-{name}"

    @property
    def shared_secret(self) -> str:
        """The secret of what all attacks look for: a process, an environment variable, a key, shared memory."""
        return f"secret-{self.word}-shared"

    # -- setting up ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, stack: contextlib.ExitStack) -> None:
        stack.callback(self._stop.set)
        self.top.mkdir(mode=0o755, exist_ok=True)
        self.abstract = f"buildstep-canary-{self.word}"
        self.key = f"buildstep-canary-{self.word}"
        tcp = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        self.port = tcp.getsockname()[1]
        sockets = [tcp, self._unix(stack, b"\0" + self.abstract.encode())]
        for name in self.names:
            folder = self.folder(name)
            folder.mkdir(mode=0o755)
            (folder / "secret").write_text(self.secret(name))
            (folder / "secret").chmod(0o600)
            sockets.append(self._unix(stack, os.fspath(folder / "socket").encode()))
            for path in (folder, folder / "secret", folder / "socket"):
                os.chown(path, self.uid, -1)
        process = subprocess.Popen(
            ["sh", "-c", "while :; do sleep 1; done", self.shared_secret],
            user=self.uid,
            start_new_session=True,
        )
        stack.callback(_end, process)
        self.process, self.pid = process, process.pid
        self.minor = stack.enter_context(self._loop())
        self.shm_key = stack.enter_context(self._shared_memory())
        stack.enter_context(self._keyring())
        self._inotify = _libc.inotify_init1(os.O_CLOEXEC)
        stack.callback(os.close, self._inotify)
        for name in self.names:
            watch = _libc.inotify_add_watch(self._inotify, os.fsencode(self.folder(name)), sum(_EVENTS))
            assert watch > 0, os.strerror(ctypes.get_errno())
            self._watches[watch] = name
        stack.callback(self._collect)
        for thread in (
            threading.Thread(target=self._answer, args=(sockets,)),
            threading.Thread(target=self._knock),
        ):
            thread.start()
            stack.callback(thread.join)
        stack.callback(self._stop.set)

    def _unix(self, stack: contextlib.ExitStack, address: bytes) -> socket.socket:
        made = stack.enter_context(socket.socket(socket.AF_UNIX))
        made.bind(address)
        made.listen()
        return made

    @contextlib.contextmanager
    def _loop(self) -> Iterator[int]:
        """A loop device with a file of ours behind it. Its minor number; -1 where there is none."""
        self.disk = self.top.parent / f"{self.top.name}.disk"
        self.disk.write_bytes(self.shared_secret.encode().ljust(1 << 20, b"\0"))
        done = subprocess.run(
            ["losetup", "--find", "--show", os.fspath(self.disk)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            yield -1
            return
        path = done.stdout.strip()
        try:
            yield os.minor(os.stat(path).st_rdev)
        finally:
            subprocess.run(["losetup", "--detach", path], check=True)

    @contextlib.contextmanager
    def _shared_memory(self) -> Iterator[int]:
        key = int(self.word[:7], 16)
        ident = _libc.shmget(key, 4096, 0o1666)
        _libc.shmat.restype = ctypes.c_void_p
        place = _libc.shmat(ident, None, 0)
        try:
            ctypes.memmove(place, self.shared_secret.encode(), len(self.shared_secret))
            yield key
        finally:
            _libc.shmctl(ident, 0, None)
            _libc.shmdt(ctypes.c_void_p(place))

    @contextlib.contextmanager
    def _keyring(self) -> Iterator[None]:
        value = self.shared_secret.encode()
        ident = _libc.syscall(_ADD_KEY, b"user", self.key.encode(), value, len(value), _USER_KEYRING)
        try:
            yield
        finally:
            if ident > 0:
                _libc.syscall(_KEYCTL, _KEYCTL_INVALIDATE, ident)

    # -- while a build runs -----------------------------------------------------------------------------------

    def _answer(self, servers: list[socket.socket]) -> None:
        """Note what connects, as it calls itself."""
        with selectors.DefaultSelector() as selector:
            for server in servers:
                selector.register(server, selectors.EVENT_READ, server)
            while not self._stop.is_set():
                for key, _ in selector.select(0.1):
                    connection, _address = key.data.accept()
                    with connection:
                        connection.settimeout(2)
                        with contextlib.suppress(OSError):
                            self.reached.append(connection.recv(200).decode(errors="replace").strip())

    def _knock(self) -> None:
        """Connect to where an attack wants to listen."""
        while not self._stop.wait(0.1):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.listener), 0.2) as one,
            ):
                one.settimeout(0.5)
                self.reached.append(one.recv(200).decode(errors="replace").strip())

    # -- afterwards ----------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        os.set_blocking(self._inotify, False)
        while True:
            try:
                data = os.read(self._inotify, 1 << 16)
            except BlockingIOError:
                break
            while data:
                watch, mask, _, size = struct.unpack_from("iIII", data)
                file = data[16 : 16 + size].rstrip(b"\0").decode()
                data = data[16 + size :]
                if file:
                    words = [word for bit, word in _EVENTS.items() if mask & bit]
                    self.touched[self._watches[watch]].append(f"{file} was {' and '.join(words)}")
        self.survived = self.process.poll() is None and _state(self.pid) not in "TtZ"
        self.disk_is_whole = self.disk.read_bytes() == self.shared_secret.encode().ljust(1 << 20, b"\0")

    def found(self, name: str) -> list[str]:
        """Return what an attack did to the host: nothing, if the walls hold."""
        wrong = list(dict.fromkeys(self.touched[name]))
        wrong += [f"reached a socket as {text}" for text in self.reached if text.startswith(f"{name}:")]
        folder = self.folder(name)
        if (folder / "secret").read_text() != self.secret(name):
            wrong.append("the canary's content is another")
        if extra := sorted(set(os.listdir(folder)) - {"secret", "socket"}):
            wrong.append(f"made {extra}")
        return wrong

    def all_found(self) -> list[str]:
        """Return the same of all attacks together, each with its name."""
        return [f"{name}: {what}" for name in self.names for what in self.found(name)] + self.reached


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the canary's process and the `sleep` that it waits for."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()
