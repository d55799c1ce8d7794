"""A directory that is worked in by descriptors: no path leads out of it, through a link or into a mount.

Others may change the tree meanwhile. That can make a step fail, but not lead it elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import OrderedDict
from types import TracebackType
from typing import Self

from buildstep.system import host

_SYS_OPENAT2 = 437  # the same number on every Linux architecture
NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT = 0x01, 0x02, 0x04, 0x08, 0x10
"""How openat2(2) resolves."""

_TRIES = 1000
_HELD = 256
_PATH = getattr(os, "O_PATH", os.O_RDONLY)
_EXCHANGE = 2  # renameat2(2)

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(fd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    """Open a path in an open directory by openat2(2) of Linux. Raises OSError."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode if flags & os.O_CREAT else 0, resolve)
    for _ in range(_TRIES):
        got = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(fd),
            ctypes.c_char_p(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        # EAGAIN: something was renamed or mounted somewhere while `..` was resolved.
        if got >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    if got < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fsdecode(path))
    return int(got)


class Beneath:
    """A directory. A context manager: it closes what it holds. fd: the directory, which is taken over."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._device = os.fstat(fd).st_dev
        self._folders: OrderedDict[bytes, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget()
        os.close(self.fd)

    def forget(self) -> None:
        """Close the folders that are held, as something else may be in their place now."""
        while self._folders:
            os.close(self._folders.popitem()[1])

    def open(self, path: bytes, flags: int) -> int:
        """Open what is at a path, b"" for the top; no link is followed, also not the last name.

        Raises OSError: ELOOP for a link on the way, EXDEV for a mount.
        """
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        if host.HERE.openat2:
            return openat2(self.fd, path or b".", flags, 0, BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV)
        at = os.dup(self.fd)
        try:
            *above, name = path.split(b"/")
            for part in above:
                at = self._step(at, part)
            return os.open(name or b".", flags, dir_fd=at)
        finally:
            os.close(at)

    def _step(self, at: int, part: bytes) -> int:
        below = os.open(part, _PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        os.close(at)
        if os.fstat(below).st_dev != self._device:
            os.close(below)
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), os.fsdecode(part))
        return below

    def folder(self, path: bytes) -> int:
        """Return a descriptor of a directory, to work in it and not to list it. It stays ours.

        It is good until some hundred other folders were asked for. Raises as `open`.
        """
        if not path:
            return self.fd
        fd = self._folders.get(path)
        if fd is not None:
            self._folders.move_to_end(path)
            return fd
        fd = self.open(path, _PATH | os.O_DIRECTORY)
        self._folders[path] = fd
        if len(self._folders) > _HELD:
            os.close(self._folders.popitem(last=False)[1])
        return fd


def exchange(source_fd: int, source: bytes, target_fd: int, target: bytes) -> None:
    """Give each of two paths what the other has, in one step (renameat2(2)).

    Raises OSError: EINVAL where the file system cannot, ENOSYS where the system cannot.
    """
    call = getattr(_libc, "renameat2", None)
    code = errno.ENOSYS
    if call is not None:
        if call(source_fd, source, target_fd, target, ctypes.c_uint(_EXCHANGE)) == 0:
            return
        code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), os.fsdecode(source), None, os.fsdecode(target))
