"""Mounts as context managers, over mount(2) itself: no command is started and no shell quotes a path."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from buildstep.errors import SandboxError
from buildstep.system import host
from buildstep.system.mount_table import mount_points

_libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_REMOUNT, MS_BIND, MS_REC = 0x20, 0x1000, 0x4000
_MS_NOATIME, _MS_NODIRATIME, _MS_RELATIME = 0x400, 0x800, 0x200000
_ST_RELATIME = 0x1000
"""The one flag that statvfs(3) has in another place than mount(2)."""

_MNT_DETACH = 0x2

LASTING = "zfsutil"
"""The option that mounts a dataset at its own mountpoint, where it is meant to stay."""

_notes: list[Callable[[Path], None]] = []

_TRIES = 5
_PAUSE = 0.1


@contextlib.contextmanager
def noted(note: Callable[[Path], None]) -> Iterator[None]:
    """For the length of a block, pass the target of each mount to `note` before it is made.

    Does nothing where mounts die with the build's namespace: there is nothing to undo after a crash.
    """
    if host.HERE.namespaces:
        yield
        return
    _notes.append(note)
    try:
        yield
    finally:
        _notes.pop()


def are_noted() -> bool:
    """Return whether a mount made now is in the journal after a crash, or goes by itself."""
    return host.HERE.namespaces or bool(_notes)


def mount(source: str, target: Path | str, fstype: str | None, flags: int = 0, data: str = "") -> None:
    """Mount by mount(2). Raises SandboxError with the kernel's message, the target and the options.

    Where mounts outlive their build it is noted first, and made by a command (`host`).
    """
    if host.HERE.mount_commands:
        lasting = data == LASTING
        if not lasting and _notes:
            _notes[-1](Path(target))
        where = os.fspath(target)
        host.mount(source, where, fstype, read_only=bool(flags & MS_RDONLY), lasting=lasting)
        return
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode() if fstype else None,
        ctypes.c_ulong(flags),
        os.fsencode(data) if data else None,
    )
    if done != 0:
        code = ctypes.get_errno()
        options = f" with {data}" if data else ""
        raise SandboxError(
            f"cannot mount {fstype or source} on {os.fspath(target)}{options}: {os.strerror(code)}",
            hint="`buildstep doctor` tells what this agent lacks" if code == errno.EPERM else "",
        ) from OSError(code, os.strerror(code), os.fspath(target))


def unmount(target: Path | str) -> None:
    """Unmount: plainly, again while busy, and at last lazily. What is not mounted is no error."""
    if host.HERE.mount_commands:
        where = os.path.realpath(target)
        if where in mount_points(where):
            host.unmount(where)
        return
    path = os.fsencode(target)
    for attempt in range(_TRIES):
        if _libc.umount2(path, 0) == 0:
            return
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOENT):
            return
        if code != errno.EBUSY:
            break
        time.sleep(_PAUSE * (attempt + 1))
    if _libc.umount2(path, _MNT_DETACH) != 0:
        code = ctypes.get_errno()
        raise SandboxError(f"cannot unmount {os.fspath(target)}: {os.strerror(code)}")


@contextlib.contextmanager
def mounted(
    source: str, target: Path | str, fstype: str | None, flags: int = 0, data: str = ""
) -> Iterator[None]:
    """Mount for the length of a block."""
    mount(source, target, fstype, flags, data)
    try:
        yield
    finally:
        unmount(target)


@contextlib.contextmanager
def bind(source: Path | str, target: Path | str, *, read_only: bool = False) -> Iterator[None]:
    """Show a file or directory at a second place. The second call is what makes it read-only."""
    if host.HERE.mount_commands:
        with mounted(os.fspath(source), target, None, MS_RDONLY if read_only else 0):
            yield
        return
    mount(os.fspath(source), target, None, MS_BIND)
    try:
        if read_only:
            mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | _flags_of(target))
        yield
    finally:
        unmount(target)


def _flags_of(target: Path | str) -> int:
    """Return the flags of a mount that a remount has to name again: a user namespace may not drop them."""
    found = os.statvfs(target).f_flag
    kept = found & (MS_NOSUID | MS_NODEV | MS_NOEXEC | _MS_NOATIME | _MS_NODIRATIME)
    return kept | (_MS_RELATIME if found & _ST_RELATIME else 0)


def tmpfs(
    target: Path | str, *, mode: int = 0o755, flags: int = MS_NOSUID, size: str = ""
) -> contextlib.AbstractContextManager[None]:
    """Mount an empty file system in memory; `size` as tmpfs takes it (default: half of the memory)."""
    data = f"mode={mode:o}" + (f",size={size}" if size else "")
    return mounted("tmpfs", target, "tmpfs", flags, data)


def overlay_options(
    lower: Sequence[Path],
    upper: Path | None = None,
    work: Path | None = None,
    *,
    volatile: bool = False,
    user: bool = False,
) -> str:
    """Return mount options of an overlay. `lower` lists the topmost first; without `upper` it is read-only.

    user: the kernel's own attributes are `user.overlay.*`, as the root of a user namespace may set no
    `trusted.*` (Linux 5.11 and later). Redirects and metadata-only copies stay off: a saved upper directory
    must be complete in itself.
    """
    options = f"lowerdir={':'.join(_escape(path) for path in lower)}"
    if upper is not None and work is not None:
        options += f",upperdir={_escape(upper, ',')},workdir={_escape(work, ',')}"
    options += ",redirect_dir=nofollow,metacopy=off,index=off" + (",userxattr" if user else "")
    # Nothing reads a clone after a crash, so its syncs buy nothing and cost apt half its time.
    return options + (",volatile" if volatile else "")


def _escape(path: Path, special: str = ":,") -> str:
    return re.sub(f"([\\\\{special}])", r"\\\1", os.fspath(path))
