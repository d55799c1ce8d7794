"""An image's own /dev: the usual nodes, terminals and shared memory, and no way to open any other device."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path

from buildstep.errors import SandboxError
from buildstep.system.mounts import MS_NODEV, MS_NOEXEC, MS_NOSUID, bind, mounted, tmpfs

NODES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}

LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


def mount(stack: ExitStack, dev: Path) -> None:
    """Mount a /dev at a directory, as long as the stack lives. Raises SandboxError.

    It is nodev as well, so that a node which a script makes there cannot be opened. The usual ones are bound
    into it one by one from a file system below, which nobody sees.
    """
    stack.enter_context(tmpfs(dev, mode=0o700, flags=MS_NOSUID | MS_NOEXEC))
    nodes = {name: _node(stack, dev / name, *numbers) for name, numbers in NODES.items()}
    stack.enter_context(tmpfs(dev, mode=0o755, flags=MS_NOSUID | MS_NOEXEC | MS_NODEV))
    for name, node in nodes.items():
        (dev / name).touch()
        stack.enter_context(bind(node, dev / name))
    for name, to in LINKS.items():
        (dev / name).symlink_to(to)
    shm = dev / "shm"
    shm.mkdir()
    shm.chmod(0o1777)
    pts = dev / "pts"
    pts.mkdir(mode=0o755)
    options = "newinstance,ptmxmode=0666,mode=0620"
    flags = MS_NOSUID | MS_NOEXEC
    try:
        stack.enter_context(mounted("devpts", pts, "devpts", flags, f"{options},gid=5"))
    except SandboxError:  # group tty is not mapped in a user namespace
        stack.enter_context(mounted("devpts", pts, "devpts", flags, options))


def _node(stack: ExitStack, path: Path, major: int, minor: int) -> Path:
    """Make a node and return a path to it that lasts as long as the stack; where the kernel refuses to make
    one (a user namespace), that of the host's."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
    except PermissionError:
        return Path("/dev", path.name)
    path.chmod(0o666)  # whatever our umask
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    stack.callback(os.close, fd)
    return Path(f"/proc/self/fd/{fd}")
