"""The proxy of commands in an image goes on serving, whatever happens to one client."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import socket
import threading
from typing import cast

import pytest

from buildstep.rootfs import network_proxy
from buildstep.rootfs.network_policy import Policy
from buildstep.rootfs.network_proxy import CONNECTIONS, NetworkProxy


class Listener:
    """A listening socket that gives what the test says: a client, or the number of an error."""

    def __init__(self) -> None:
        self.coming: queue.Queue[socket.socket | int] = queue.Queue()

    def accept(self) -> tuple[socket.socket, None]:
        found = self.coming.get()
        if isinstance(found, int):
            raise OSError(found, os.strerror(found))
        return found, None

    def shutdown(self, _how: int) -> None:
        self.coming.put(errno.EINVAL)

    def close(self) -> None: ...


def answer(listener: Listener) -> bytes:
    """What a client gets whose request is none; nothing where it is not served."""
    client, server = socket.socketpair()
    with client:
        client.settimeout(10)
        client.sendall(b"nonsense\r\n\r\n")
        listener.coming.put(server)
        with contextlib.suppress(ConnectionResetError):
            return client.recv(1000)
    return b""


@pytest.fixture
def listener() -> Listener:
    return Listener()


def proxy_on(listener: Listener) -> NetworkProxy:
    return NetworkProxy(cast("socket.socket", listener), Policy(), {})


def test_a_client_that_cannot_be_accepted_is_not_the_last(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_proxy, "_PAUSE", 0.0)
    proxy = proxy_on(listener)
    for number in (errno.ECONNABORTED, *[errno.EMFILE] * CONNECTIONS):
        listener.coming.put(number)
    assert answer(listener).startswith(b"HTTP/1.1 400 ")
    before = threading.active_count()
    proxy.close()
    assert threading.active_count() <= before


def test_one_for_whom_there_is_no_thread_is_not_the_last(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = proxy_on(listener)
    real, tries = threading.Thread.start, iter([True])

    def start(thread: threading.Thread) -> None:
        if next(tries, False):
            raise RuntimeError("can't start new thread")
        real(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert answer(listener) == b""
    assert answer(listener).startswith(b"HTTP/1.1 400 ")
    proxy.close()
