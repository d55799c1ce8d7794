"""The one way into an image's root on Linux: the command line of bubblewrap, which pivots into it.

The host's tree is detached before the program of the image runs, so that there is nothing to walk out to.
What the image has instead of the host's is mounted by the caller below the root, in the build's own mount
namespace, where no link of the image is followed (`rootfs.sandbox`); bubblewrap takes those mounts along.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import signal
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from buildstep.errors import SandboxError
from buildstep.system import process

_LAST = 60.0
"""Seconds that the kernel may take to end thousands of processes on a loaded machine."""

CAPABILITIES = {
    "chown": "files get the owners that their package says",
    "dac_override": "root writes what another user owns, as everywhere",
    "fowner": "modes, times and attributes of files that another user owns",
    "fsetid": "a setuid or setgid mode stays when its file is written or given away",
    "kill": "scripts stop what they started, whatever its user",
    "setgid": "apt, man-db and others do their work as a group of their own",
    "setuid": "the same, as a user of their own",
    "setfcap": "packages that give their programs capabilities (ping) write them to the file",
    "net_bind_service": "a daemon that a script tries out takes a low port of its own loopback",
    "sys_chroot": "programs that check a tree by entering it; there is no host tree to get out to",
    "mknod": "packages that bring device nodes; none can be opened, as the root is mounted nodev",
    "audit_write": "without it PAM refuses root's `su`, `runuser` and `chpasswd`",
}  # fmt: skip
"""All that a command in an image may do beyond an ordinary user, each with the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrance:
    """How a command gets into a root.

    root: a directory with its own /dev mounted and a /proc to mount on; network_given: whether the command is
    in the network namespace that `prefix` enters, else it has one with nothing but a loopback; prefix: a
    command line on the CI host that runs what follows it; on_terminal: whether the program leads its session,
    so that it can have a terminal, which makes it process 1; seccomp: a descriptor of the filter of system
    calls (`seccomp`); watch: what learns how it went; workdir: where it begins.
    """

    root: Path
    network_given: bool = False
    prefix: tuple[str, ...] = ()
    on_terminal: bool = False
    seccomp: int | None = None
    watch: Watch | None = None
    workdir: str = "/"

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors that bwrap has to inherit."""
        watch = None if self.watch is None else self.watch.fd
        return tuple(fd for fd in (self.seccomp, watch) if fd is not None)

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line on the CI host. Raises ToolMissing."""
        return [
            *self.prefix,
            program(),
            "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
            *([] if self.network_given else ["--unshare-net"]),
            # A session of its own: what terminal the host has is not its terminal.
            "--die-with-parent", "--new-session",
            *(["--as-pid-1"] if self.on_terminal else []),
            "--cap-drop", "ALL", *(word for name in CAPABILITIES for word in ("--cap-add", f"cap_{name}")),
            # nosuid and nodev, with all that is mounted below. The nodes in its own /dev can be opened: what
            # is mounted there keeps the flags that it has.
            "--bind", os.fspath(self.root), "/",
            "--dev-bind", os.fspath(self.root / "dev"), "/dev",
            # Root may write settings of the kernel there, and set the modes of files that the host shares.
            "--proc", "/proc", "--remount-ro", "/proc",
            *(word for path in _hidden() for word in ("--ro-bind", "/dev/null", path)),
            *([] if self.seccomp is None else ["--seccomp", str(self.seccomp)]),
            *([] if self.watch is None else ["--json-status-fd", str(self.watch.fd)]),
            "--chdir", self.workdir,
            "--", *argv,
        ]  # fmt: skip


def program() -> str:
    """Return the path of bwrap itself, no link to it. Raises ToolMissing."""
    return os.path.realpath(process.which("bwrap"))


class Watch:
    """What bwrap tells of one command, and the end of all that the command left running.

    fd: the descriptor that bwrap has to inherit.
    """

    def __init__(self) -> None:
        # bwrap must never wait for a reader, nor we for a writer.
        self._read, self.fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._told = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End process 1 of the command's namespaces and wait for it: the kernel ends the others before it.

        bwrap itself returns as soon as the command does, and leaves that to a signal on its way. Raises
        SandboxError if that takes too long.
        """
        try:
            found = re.search(rb'"child-pid": *(\d+)', self._tell())
            if found:
                _end(int(found[1]))
        finally:
            os.close(self._read)
            os.close(self.fd)

    def program(self) -> int | None:
        """Return the process of the program in the image, as this one sees it; None where there is none."""
        found = re.search(rb'"child-pid": *(\d+)', self._tell())
        if found is None:
            return None
        first = int(found[1])
        with contextlib.suppress(OSError):
            below = Path(f"/proc/{first}/task/{first}/children").read_text().split()
            if below:
                return int(below[0])
        return first  # it is process 1 itself

    def started(self) -> bool:
        """Return whether the program in the image ran and ended; to be asked when bwrap has ended."""
        return b'"exit-code"' in self._tell()

    def _tell(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            self._told += os.read(self._read, 1 << 16)
        return self._told


def _end(pid: int) -> None:
    """Kill a process and wait until it is gone, whosever child it is."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        if not select.select([fd], [], [], _LAST)[0]:
            raise SandboxError(
                f"what a command in the image left running does not end within {_LAST:g} s of being killed",
                hint="a process waits in the kernel, for a disk or a file server; see the kernel's log",
            )
    finally:
        os.close(fd)
    # The build is process 1 of its namespace, so that the orphan is its child by now.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


@functools.cache
def _hidden() -> tuple[str, ...]:
    """Return the files of /proc that tell root about the memory of the kernel and of others, and keys."""
    found = ["/proc/keys", "/proc/key-users"]
    with os.scandir("/proc") as entries:
        for entry in entries:
            if not entry.name.isdigit() and entry.is_file(follow_symlinks=False):
                mode = entry.stat(follow_symlinks=False).st_mode
                if not mode & stat.S_IROTH:
                    found.append(entry.path)
    return tuple(sorted(path for path in found if os.path.exists(path)))
