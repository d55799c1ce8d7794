"""Kernel locks on files (flock): released with the process, whatever happens to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from buildstep.system.private import private_dir


def create_locked(path: Path, mode: int) -> int | None:
    """Create a file and lock it; return its descriptor.

    Returns None if it was removed in the moment before it was locked: who removes what dead processes left
    may have taken it for one of theirs.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _same_file(fd, path):
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


@contextlib.contextmanager
def lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on a file for the length of a block; waits for it. The file is made if it is not there."""
    fd = take_lock(path, shared=shared)
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def try_lock(path: Path, *, shared: bool = False, create: bool = True) -> Iterator[bool]:
    """Hold a lock on a file for the length of a block if nobody else holds it; yields whether it is ours.

    create: make the file if it is not there; else a missing file yields False. Raises OSError for a file
    that cannot be opened.
    """
    fd = _take(path, _flags(shared) | fcntl.LOCK_NB, create=create)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


def take_lock(path: Path, *, shared: bool = False) -> int:
    """Wait for a lock on a file and return its descriptor, open to read and write.

    Closing it releases the lock; the kernel does so with the process, however that ends.
    """
    fd = _take(path, _flags(shared), create=True)
    assert fd is not None
    return fd


def _flags(shared: bool) -> int:
    return fcntl.LOCK_SH if shared else fcntl.LOCK_EX


def _take(path: Path, flags: int, *, create: bool) -> int | None:
    """Return the descriptor of a locked file. None if another holds it, or it is missing and not created."""
    while True:
        if create:
            private_dir(path.parent)
        access = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY | os.O_NONBLOCK
        try:
            fd = os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            if create:
                raise
            return None
        try:
            fcntl.flock(fd, flags)
            # Whoever held it may have removed the file while we waited: then this lock guards nothing.
            if _same_file(fd, path):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
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
