"""Files: atomic writes, JSON, copies that share blocks, holes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from buildstep.system.locks import create_locked
from buildstep.system.space import located, locating

CHUNK = 1 << 20
"""Bytes read at a time when a whole file is hashed or copied."""

ZEROS = bytes(CHUNK)

GRAIN = 64 << 10
"""Zeros become holes in whole pieces of this size. A multiple of a tar block."""


_FICLONE = 0x40049409  # linux/fs.h

# -- writing ----------------------------------------------------------------------------------------


def fsync_dir(path: Path | str) -> None:
    """Make a rename or creation in this directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(path: Path | str) -> None:
    """Make all of the file system that a directory is on durable (syncfs(2)); elsewhere, of all of them.

    Raises OSError, from Linux 5.8 on also for what could not be written since it was called last.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if call is None:
            os.sync()
        elif call(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(path))
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_write(path: Path, *, mode: int = 0o600, durable: bool = True) -> Iterator[IO[bytes]]:
    """Write a file that gets its name only when the block has ended well, complete and synced to disk.

    Until then it has a temporary name and is locked: one that can be locked was left by a dead process.
    mode: less the umask; by default nobody else may read it. durable: False leaves out the syncs, for what
    can be made again. Raises OSError.
    """
    while True:
        # The name is known before the file is there: a signal in between leaves nothing behind.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.part")
        try:
            fd = create_locked(temporary, mode)
            if fd is None:
                continue
            with os.fdopen(fd, "w+b") as stream:
                yield stream
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            temporary.replace(path)
            if durable:
                fsync_dir(path.parent)
        except BaseException as error:
            failure = located(error, path) if isinstance(error, OSError) else error
            temporary.unlink(missing_ok=True)
            if failure is not error:
                raise failure from error
            raise
        return


@contextlib.contextmanager
def named_output(path: Path, *, mode: int = 0o644, durable: bool = False) -> Iterator[IO[bytes]]:
    """Write to a path that a person named: a new file or one in place of an old one, complete or not at all.

    A device, a pipe or a link such as /dev/stdout is written to: it must not be replaced by a file, which
    root could do even to /dev/null. mode, durable: see `atomic_write`. Raises OSError.
    """
    try:
        regular = stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        regular = True
    if regular:
        with atomic_write(path, mode=mode, durable=durable) as stream:
            yield stream
    else:
        with locating(path), path.open("wb") as stream:
            yield stream


def write_json(path: Path, value: object, *, mode: int = 0o600, durable: bool = True) -> None:
    """Write one JSON document atomically, two-space indented. mode: less the umask."""
    with atomic_write(path, mode=mode, durable=durable) as stream:
        stream.write(json.dumps(value, indent=2).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Return the JSON document in this file. Raises FileNotFoundError, or ValueError for bad content."""
    return json.loads(path.read_bytes())


# -- copying ----------------------------------------------------------------------------------------


def copy_range(source: int, target: int, count: int) -> None:
    """Copy `count` bytes between two open files at their offsets, inside the kernel where it can.

    Raises OSError, for a disk that is full with the path of the target.
    """
    with locating(target):
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
                raise OSError(errno.ENODATA, "the file ended before it was copied")
            count -= done


_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def try_link(source: Path, target: Path) -> bool:
    """Give a file a second name. Returns False where its file system has no hard links, or no more of it.

    Raises OSError, also where something has that name.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte, however many calls it takes. Raises OSError."""
    if not data:
        return
    try:
        done = os.write(fd, data)  # nearly always all of it, and `locating` takes as long as that
    except OSError as error:
        if (failure := located(error, fd)) is not error:
            raise failure from error
        raise
    if done < len(data):
        view = memoryview(data)[done:]
        with locating(fd):
            while view:
                view = view[os.write(fd, view) :]


def write_sparse(fd: int, data: bytes) -> None:
    """Write every byte at the file's offset; long runs of zeros become holes, as most archives and stores do
    not tell of these. A file that ends with one has its size only after `ftruncate`. Raises OSError."""
    begin = 0
    for at in range(0, len(data) - GRAIN + 1, GRAIN):
        if data[at] == 0 and is_zeros(data[at : at + GRAIN]):
            write_all(fd, data[begin:at])
            os.lseek(fd, GRAIN, os.SEEK_CUR)
            begin = at + GRAIN
    write_all(fd, data[begin:] if begin else data)


def clone(source: int, target: int) -> bool:
    """Let an empty file share all blocks of another (ioctl_ficlonerange(2)); return False where it cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONES:
            return False
        raise
    return True


_NO_CLONES = (
    errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM, errno.ENOSYS, errno.EAGAIN
)  # fmt: skip
"""Of file systems that cannot; the last is ZFS's, of blocks that are not on the disk yet."""


def data_extents(fd: int, size: int) -> list[tuple[int, int]]:
    """Return the (offset, length) pieces of a file that hold data; holes are what lies between."""
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


def is_zeros(piece: bytes) -> bool:
    """Return whether a piece, of `CHUNK` bytes at most, is of zeros only; false for an empty one."""
    # Most have something in their first byte.
    return piece[:1] == b"\0" and piece == ZEROS[: len(piece)]


Extents = Sequence[tuple[int, int]]
"""The (offset, length) pieces of a sparse file that hold data, in order; offsets in whole blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """A part of a file, such as one member of an archive."""

    path: Path
    offset: int
    size: int


class SliceReader:
    """A part of an open file, read as a stream of its own; nothing else may read the file meanwhile.

    It has a length, by which `requests` sends it as a body that is not chunked.
    """

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        file.seek(offset)
        self._file, self._left, self._size = file, size, size

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a directory. Raises OSError."""
    if not path.is_dir():
        return path.stat().st_size
    found = (item.lstat() for item in path.rglob("*"))
    return sum(info.st_size for info in found if stat.S_ISREG(info.st_mode))


def stamp(path: Path) -> list[int]:
    """Return what changes when a file is replaced or written to: device, inode, size, mtime, ctime."""
    info = os.stat(path, follow_symlinks=False)
    return [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
