"""Time limits for whole phases of a call, over all connections of a client."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

_TICK = 0.25
"""Seconds: a limit is noticed that much later at most."""
_IDLE = 5.0
"""Seconds without a call after which the thread ends."""


class Deadlines:
    """One thread that shuts down the sockets of calls that take too long.

    A socket's own time limit starts anew with every byte.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limits: dict[socket.socket, float] = {}
        self._thread: threading.Thread | None = None

    def set(self, sock: socket.socket, seconds: float) -> None:
        """Give a socket so many seconds from now on."""
        with self._changed:
            idle = not self._limits
            self._limits[sock] = time.monotonic() + seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="http-deadlines", daemon=True)
                self._thread.start()
            elif idle:
                self._changed.notify()

    def clear(self, sock: socket.socket) -> bool:
        """End the limit of a socket. Return whether it was reached."""
        with self._changed:
            return self._limits.pop(sock, None) is None

    def end_all(self) -> None:
        """Shut down all sockets that are in a call."""
        with self._changed:
            for sock in self._limits:
                _shut_down(sock)
            self._limits.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._limits and not self._changed.wait(_IDLE):
                    self._thread = None  # the next call starts another
                    return
                now = time.monotonic()
                for sock in [sock for sock, limit in self._limits.items() if limit < now]:
                    del self._limits[sock]
                    _shut_down(sock)
            time.sleep(_TICK)


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # The plain socket's method: that of a TLS one would forget its state under a reader.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
