"""Kernel locks on files (flock): released with the process, whatever happens to it.

A lock file may be removed by whoever holds it exclusively. A process that waits for it meanwhile notices, by
the inode, that it got a lock on a file that nobody sees any more, and takes a new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from buildstep.system.private import private_dir

Tell = Callable[[str], None]
"""Is given a sentence that says what is waited for, and who has it."""

_PATIENCE = 1.0
"""Seconds that we wait for a lock before we say so."""
_PAUSE = 0.02


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
def lock(path: Path, *, shared: bool = False, tell: Tell | None = None) -> Iterator[None]:
    """Hold a lock on a file for the length of a block; waits for it. The file is made if it is not there.

    tell: is told of a wait that takes more than a moment, and which process has the lock.
    """
    fd = take_lock(path, shared=shared, tell=tell)
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


def take_lock(path: Path, *, shared: bool = False, tell: Tell | None = None) -> int:
    """Wait for a lock on a file and return its descriptor, open to read and write. tell: see `lock`.

    Closing it releases the lock; the kernel does so with the process, however that ends.
    """
    if tell is not None:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            fd = _take(path, _flags(shared) | fcntl.LOCK_NB, create=True)
            if fd is not None:
                return fd
            time.sleep(_PAUSE)
        tell(f"waiting for {_who(path)}, which has {path} locked")
    fd = _take(path, _flags(shared), create=True)
    assert fd is not None
    return fd


def lock_directory(path: Path) -> int | None:
    """Lock a directory and return its descriptor; None if somebody else has it locked. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    return fd if _locked(fd, fcntl.LOCK_EX | fcntl.LOCK_NB) else None


def holders(path: Path) -> list[int]:
    """Return the processes that have a lock on this file, as far as the kernel shows them to us."""
    try:
        info = os.stat(path, follow_symlinks=False)
        rows = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    name = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    # NUMBER: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END; who waits has `->` after the number.
    found = [row.split() for row in rows]
    return [int(row[4]) for row in found if len(row) > 5 and row[1] == "FLOCK" and row[5] == name]


def _who(path: Path) -> str:
    """Name the processes that hold a lock."""
    found = []
    for pid in holders(path):
        words = b""
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        command = " ".join(os.fsdecode(words).replace("\n", " ").split("\0")).strip()
        found.append(f"process {pid} ({command[:100]})" if command else f"process {pid}")
    return " and ".join(found) or "another process"


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
        if not _locked(fd, flags):
            return None
        try:
            # Whoever held it may have removed the file while we waited: then this lock guards nothing.
            same = _same_file(fd, path)
        except BaseException:
            os.close(fd)
            raise
        if same:
            return fd
        os.close(fd)


def _locked(fd: int, flags: int) -> bool:
    """Lock an open file. Where another holds it, and for every error, it is closed. Raises OSError."""
    try:
        fcntl.flock(fd, flags)
    except BlockingIOError:
        os.close(fd)
        return False
    except BaseException:
        os.close(fd)
        raise
    return True


def _same_file(fd: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
