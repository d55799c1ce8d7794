"""A network namespace that has nothing but a loopback of its own, and a listening socket on it.

A thread enters the new namespace, makes the socket there and ends; the rest of the process stays on the
host's network. So a server in this process talks to those inside, and to the world outside.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading

from buildstep.errors import SandboxError
from buildstep.system import process

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 0x1
_IFREQ = "16sh14x"
_BACKLOG = 128


class NetworkNamespace:
    """A network namespace, held open, and a socket that listens on port `port` of its loopback."""

    def __init__(self, port: int | None = None) -> None:
        """port: None for no socket. Raises SandboxError where the kernel refuses."""
        self.listener: socket.socket
        self._fd = -1
        failed: list[OSError] = []

        def make() -> None:
            try:
                self._make(port)
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=make, name="network namespace")
        thread.start()
        thread.join()
        if failed:
            self.close()
            raise SandboxError(
                f"the kernel refused a network for the image: {failed[0].strerror}",
                hint="run as root, or where the CI host is itself a container give it CAP_SYS_ADMIN",
            )

    def _make(self, port: int | None) -> None:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        name = b"lo"
        found = fcntl.ioctl(made, _SIOCGIFFLAGS, struct.pack(_IFREQ, name, 0))
        flags = struct.unpack(_IFREQ, found)[1]
        fcntl.ioctl(made, _SIOCSIFFLAGS, struct.pack(_IFREQ, name, flags | _IFF_UP))
        if port is None:
            made.close()
            return
        self.listener = made
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(_BACKLOG)

    def prefix(self) -> tuple[str, ...]:
        """Return the command line that runs what follows it in the namespace. Raises ToolMissing."""
        # By this process's own table of files: a descriptor that was passed on would get into the image.
        where = f"/proc/{os.getpid()}/fd/{self._fd}"
        return process.which("nsenter"), f"--net={where}", "--"

    def join(self) -> None:
        """Let the calling thread, and it alone, be in the namespace from now on. Raises SandboxError."""
        if _libc.setns(self._fd, _CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise SandboxError(f"the network of the image cannot be entered: {reason}")

    def close(self) -> None:
        """Let go of the namespace; it is gone when nobody is in it any more."""
        if hasattr(self, "listener"):
            self.listener.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
