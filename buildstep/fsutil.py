"""File system acts that must not go wrong: atomic writes, locks, safe removal, access inside a root."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from buildstep import platform
from buildstep.errors import DatasetError, SandboxError

CHUNK = 1 << 20
"""Bytes read at a time when a whole file is hashed or copied."""

_FICLONE = 0x40049409  # linux/fs.h
_SYS_OPENAT2 = 437  # the same number on every Linux architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10


# -- writing ----------------------------------------------------------------------------------------


def fsync_dir(path: Path | str) -> None:
    """Make a rename or creation in this directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_write(path: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when the block has ended well, fsynced and complete.

    Until then it has a name of its own and is locked: one that can be locked was left by a dead process.
    """
    temporary, fd = _new_locked(path, mode)
    try:
        with os.fdopen(fd, "w+b") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        temporary.replace(path)
        if durable:
            fsync_dir(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _new_locked(path: Path, mode: int) -> tuple[Path, int]:
    while True:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.part")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            # Whoever sweeps may have taken it for a dead one's in the moment before it was locked.
            if _same_file(fd, temporary):
                return temporary, fd
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        os.close(fd)


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Write one JSON document atomically, two-space indented."""
    with atomic_write(path, durable=durable) as stream:
        stream.write(json.dumps(value, indent=2).encode() + b"\n")


def read_json(path: Path) -> Any:
    """The JSON document in this file. Raises FileNotFoundError, or ValueError for bad content."""
    return json.loads(path.read_bytes())


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# -- locks ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[int]:
    """A kernel lock on a file, released with the process whatever happens to it. Yields the descriptor.

    Raises BlockingIOError when it is held and `wait` is false.
    """
    fd = take_lock(path, shared=shared, wait=wait)
    try:
        yield fd
    finally:
        os.close(fd)


def take_lock(path: Path, *, shared: bool = False, wait: bool = True) -> int:
    """Take a lock and return its descriptor; closing it releases the lock."""
    flags = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, flags)
            # Whoever held it may have removed the file while we waited: then this lock guards nothing.
            if _same_file(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _same_file(fd: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


# -- removal ----------------------------------------------------------------------------------------


def remove_tree(path: Path | str) -> None:
    """Remove a tree without following a link or crossing into another file system.

    Raises DatasetError when something is mounted inside: nothing below a mount is ever touched.
    """
    path = os.fspath(path)
    try:
        top = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(top.st_mode):
        os.unlink(path)
        return
    parent = os.lstat(os.path.dirname(os.path.abspath(path)))
    if top.st_dev != parent.st_dev:
        raise _mounted(path)
    with contextlib.suppress(FileNotFoundError):  # gone meanwhile: somebody removes the same tree
        fd = _open_dir(path, None)
        try:
            remove_children(fd, path, top.st_dev)
        finally:
            os.close(fd)
        os.rmdir(path)


def remove_children(fd: int, path: str, device: int) -> None:
    """Empty the directory that `fd` has open; `path` is for messages, `device` where we may work."""
    with os.scandir(fd) as entries:
        listing = list(entries)
    for entry in listing:
        # What is gone already was removed by somebody who removes the same tree.
        with contextlib.suppress(FileNotFoundError):
            if not entry.is_dir(follow_symlinks=False):
                _remove_name(os.unlink, entry.name, fd)
                continue
            child = _open_dir(entry.name, fd)
            try:
                # The descriptor's own device: a mount that appeared since the listing is seen as well.
                if os.fstat(child).st_dev != device:
                    raise _mounted(f"{path}/{entry.name}")
                remove_children(child, f"{path}/{entry.name}", device)
            finally:
                os.close(child)
            _remove_name(os.rmdir, entry.name, fd)


def _open_dir(name: str, dir_fd: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=dir_fd)
        return os.open(name, flags, dir_fd=dir_fd)


def _remove_name(act: Callable[..., None], name: str, dir_fd: int) -> None:
    """unlink or rmdir, in a directory of ours that its mode keeps us from writing to as well."""
    try:
        act(name, dir_fd=dir_fd)
    except PermissionError:
        os.fchmod(dir_fd, 0o700)
        act(name, dir_fd=dir_fd)


def _mounted(path: str) -> DatasetError:
    return DatasetError(
        f"{path} is a mount point, and was not removed",
        hint="unmount it; nothing below a mount is deleted by a build",
    )


# -- copying ----------------------------------------------------------------------------------------


def clone_file(source: int, target: int) -> bool:
    """Share the blocks of one open file with another (reflink). False where it cannot be done."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM):
            return False
        raise
    return True


def copy_range(source: int, target: int, count: int) -> None:
    """Copy `count` bytes between two open files at their offsets, inside the kernel where it can."""
    while count:
        try:
            done = os.copy_file_range(source, target, min(count, 1 << 30))
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            chunk = os.read(source, min(count, CHUNK))
            write_all(target, chunk)
            done = len(chunk)
        if not done:
            raise OSError(errno.EIO, "the file ended before it was copied")
        count -= done


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte; a short write is not an end."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def data_extents(fd: int, size: int) -> list[tuple[int, int]]:
    """The (offset, length) pieces of a file that hold data; holes are what lies between."""
    extents: list[tuple[int, int]] = []
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        if begin >= size:
            break
        end = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        extents.append((begin, end - begin))
        offset = end
    return extents


# -- inside a root ----------------------------------------------------------------------------------


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


class Root:
    """A directory seen as `/`: no path given to it, and no link found on the way, leads out of it.

    Linux resolves with openat2(2) RESOLVE_IN_ROOT; elsewhere the components are walked one by one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        """A descriptor of a path inside; links are followed inside the root. Raises OSError."""
        if not platform.HERE.openat2:
            from buildstep.rootwalk import open_inside

            return open_inside(self.path, path, flags, mode)
        fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        try:
            how = _OpenHow(
                flags | os.O_CLOEXEC,
                mode if flags & os.O_CREAT else 0,
                _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS,
            )
            got = _libc.syscall(
                ctypes.c_long(_SYS_OPENAT2),
                ctypes.c_int(fd),
                ctypes.c_char_p(os.fsencode(path.lstrip("/") or ".")),
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
            )
            if got < 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), path)
            return int(got)
        finally:
            os.close(fd)

    def real(self, path: str) -> str | None:
        """Where a path inside really is, as a path from the root without links; None if it is not."""
        if not platform.HERE.openat2:
            from buildstep.rootwalk import real_inside

            return real_inside(self.path, path)
        try:
            fd = self.open(path, os.O_PATH)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        try:
            found = os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        top = os.path.realpath(self.path)
        inside = os.path.relpath(found, top)
        return "/" if inside == "." else f"/{inside}"

    def exists(self, path: str) -> bool:
        return self.real(path) is not None

    def is_dir(self, path: str) -> bool:
        if not platform.HERE.openat2:
            found = self._stat(path)
            return found is not None and stat.S_ISDIR(found.st_mode)
        try:
            os.close(self.open(path, os.O_PATH | os.O_DIRECTORY))
        except OSError:
            return False
        return True

    def is_program(self, path: str) -> bool:
        """Whether this is a regular file that somebody may execute."""
        found = self._stat(path)
        mode = 0 if found is None else found.st_mode
        return stat.S_ISREG(mode) and bool(mode & 0o111)

    def _stat(self, path: str) -> os.stat_result | None:
        """What is at a path, links followed; None if nothing can be reached there."""
        if not platform.HERE.openat2:
            from buildstep.rootwalk import stat_inside

            found = stat_inside(self.path, path)
            return None if found is None else found[1]
        try:
            fd = self.open(path, os.O_PATH)
        except OSError:
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def read(self, path: str) -> bytes:
        """A whole file. A device or a pipe planted under the name is refused, never waited for."""
        fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as stream:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SandboxError(f"{path} in the image is not a regular file")
            return stream.read()

    def lstat(self, path: str) -> os.stat_result | None:
        """What is at a path, a link itself and not its target; None if nothing is."""
        try:
            with self.parent(path) as (fd, name):
                return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def host_path(self, path: str) -> Path | None:
        """The path on the agent of something inside, with every link resolved inside the root."""
        found = self.real(path)
        return None if found is None else self.path / found.lstrip("/")

    @contextlib.contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The open directory that holds a path, and its last name: what every change starts from."""
        head, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise SandboxError(f"{path!r} does not name an entry")
        fd = self.open(head or "/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def make_dirs(self, path: str, mode: int = 0o755) -> list[str]:
        """Make a directory and its parents; returns those that were not there, outermost first."""
        made: list[str] = []
        at = ""
        for part in path.strip("/").split("/"):
            at = f"{at}/{part}"
            if self.is_dir(at):
                continue
            with self.parent(at) as (fd, name):
                os.mkdir(name, mode, dir_fd=fd)
                os.chmod(name, mode, dir_fd=fd)  # whatever our umask
            made.append(at)
        return made

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Replace a file: written aside and renamed, so a link under the name is replaced, not followed."""
        with self.parent(path) as (fd, name):
            temporary = f".{name}.buildstep-{os.getpid()}"
            out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=fd)
            try:
                try:
                    write_all(out, data)
                    os.fchmod(out, mode)
                finally:
                    os.close(out)
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=fd)
                raise

    def remove(self, path: str) -> None:
        """Remove a file, a link or a whole directory; nothing is done when it is not there."""
        try:
            with self.parent(path) as (fd, name):
                self._remove_at(fd, name, path)
        except (FileNotFoundError, NotADirectoryError):
            return

    def _remove_at(self, fd: int, name: str, path: str) -> None:
        if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=fd)
            return
        child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        try:
            device = os.fstat(child).st_dev
            if device != os.fstat(fd).st_dev:
                raise _mounted(path)
            remove_children(child, path, device)
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=fd)
