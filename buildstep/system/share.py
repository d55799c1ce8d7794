"""A second place for what a file holds: with shared blocks, as a second name of it, or as a copy."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from buildstep.system.files import clone, copy_range, try_link

Shared = Literal["clone", "link", "copy"]
"""How a file got its second place."""


def share(source: Path, target: Path, *, link: bool) -> Shared:
    """Give what a file holds a second place, which must be free; say how.

    Blocks are shared where the file system can (ioctl_ficlonerange(2)): then the two have nothing more to do
    with each other. link: else the file may get a second name, if `may_link` says so; who may read a new file
    may read it then. Else it is copied. Raises OSError, and leaves nothing then.
    """
    read = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(read)
        modes: list[int] = []
        if _made(target, lambda fd: _cloned(read, fd, modes)):
            return "clone"
        if link and may_link(info) and _linked(source, target):
            if wanted := modes[0] & 0o444 & ~info.st_mode:
                os.fchmod(read, stat.S_IMODE(info.st_mode) | wanted)
            return "link"
        _made(target, lambda fd: _copied(read, fd, info.st_size))
    finally:
        os.close(read)
    return "copy"


def _made(target: Path, fill: Callable[[int], bool]) -> bool:
    """Make a file and fill it; it is removed again where that says no, or fails."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    done = False
    try:
        done = fill(fd)
    finally:
        os.close(fd)
        if not done:
            target.unlink()
    return done


def _cloned(source: int, target: int, modes: list[int]) -> bool:
    """Share the blocks of a file with a new one. modes: gets the mode that new files have here."""
    modes.append(os.fstat(target).st_mode)
    return clone(source, target)


def may_link(info: os.stat_result) -> bool:
    """Tell whether a file is fit for a second name in a place of others: it is ours, and nobody may write to
    it, so that only who could write to the first name as well can do so by the second."""
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o222


def _linked(source: Path, target: Path) -> bool:
    """Give a file a second name, if its file system can."""
    try:
        return try_link(source, target)
    except OSError as error:
        # Two mounts of one file system too: there is no link from one to the other.
        if error.errno not in (errno.EXDEV, errno.EACCES):
            raise
    return False


def _copied(source: int, target: int, size: int) -> bool:
    copy_range(source, target, size)
    return True
