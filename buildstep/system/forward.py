"""Ports of this machine that lead to ports of a network namespace."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from dataclasses import dataclass

from buildstep.errors import SandboxError
from buildstep.system.netns import NetworkNamespace

_CHUNK = 1 << 16
_BACKLOG = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """host, port: where we listen; 0 for any that is free. inside: the port of the loopback there."""

    host: str
    port: int
    inside: int


class Forward:
    """A listening socket, and the connections that came to it."""

    def __init__(self, port: Port) -> None:
        """Raises SandboxError where nobody can listen there."""
        self._port = port
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((port.host, port.port))
            self._listener.listen(_BACKLOG)
        except (OSError, OverflowError) as error:
            self._listener.close()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise SandboxError(
                f"cannot listen on {port.host} port {port.port}: {reason}",
                hint="give another one with -p [HOST:]PORT:PORT, or 0 for one that is free",
            ) from error

    @property
    def address(self) -> str:
        """Where we listen, as HOST:PORT."""
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self, namespace: NetworkNamespace) -> None:
        """Take connections from now on."""
        threading.Thread(target=self._accept, args=(namespace,), name="forward", daemon=True).start()

    def close(self) -> None:
        """Take no more connections, and end those that there are."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self, namespace: NetworkNamespace) -> None:
        while True:
            try:
                came, _ = self._listener.accept()
            except OSError:  # it is closed
                return
            serve = threading.Thread(target=self._serve, args=(came, namespace), daemon=True)
            serve.start()

    def _serve(self, came: socket.socket, namespace: NetworkNamespace) -> None:
        """Pass bytes both ways until both sides have said all. Where nothing listens inside, hang up."""
        with came:
            try:
                namespace.join()
                there = _connected(self._port.inside)
            except (OSError, SandboxError):
                return
            with there:
                with self._lock:
                    self._open |= {came, there}
                try:
                    _pass(came, there)
                except OSError:
                    return
                finally:
                    with self._lock:
                        self._open -= {came, there}


def _connected(port: int) -> socket.socket:
    try:
        return socket.create_connection(("127.0.0.1", port))
    except ConnectionRefusedError:
        return socket.create_connection(("::1", port))


def _pass(one: socket.socket, two: socket.socket) -> None:
    other = {one: two, two: one}
    with selectors.DefaultSelector() as selector:
        for end in other:
            selector.register(end, selectors.EVENT_READ, end)
        while selector.get_map():
            for key, _ in selector.select():
                end = key.data
                data = end.recv(_CHUNK)
                if data:
                    other[end].sendall(data)
                    continue
                selector.unregister(end)
                with contextlib.suppress(OSError):
                    other[end].shutdown(socket.SHUT_WR)
