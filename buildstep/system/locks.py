"""Kernel locks on files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path


def new_locked_file(path: Path, mode: int) -> tuple[Path, int]:
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
