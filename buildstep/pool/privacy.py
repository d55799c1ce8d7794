"""A pool's wall: what bases and packages bring, setuid programs too, is out of reach of other users.

The mode of one directory, 0700, keeps them out of everything below. What is below is made as tight, so that a
wall that somebody opens by mistake still hides the records, logs and datasets.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from pathlib import Path

from buildstep.errors import DatasetError
from buildstep.pool.interface import Backend, Kind
from buildstep.system import space
from buildstep.system.private import OTHERS, private_file

_DONE = ".private"
"""In a pool's state: everything below has had its mode looked at."""

_NOT_OURS = frozenset(("blobs", "mnt", "packages", "work"))
"""In a pool's state: directories whose content is shown in images, or is one; it keeps its modes. A layer
whose mode was changed would be read as a whole before it is used again."""


def refuse_foreign(wall: Path, uri: str) -> None:
    """Raise DatasetError for a pool that somebody else owns, or could have put something into."""
    try:
        info = os.stat(wall)
    except (FileNotFoundError, NotADirectoryError):
        return
    if info.st_uid != os.geteuid():
        raise DatasetError(
            f"the pool {uri} belongs to {_user(info.st_uid)}, and this is {_user(os.geteuid())}",
            hint="give a directory of your own to --pool or BUILDSTEP_POOL; a pool has one user",
        )
    if _may_be_written_by_others(info) and os.listdir(wall):
        raise DatasetError(
            f"others may write to the pool {uri} (mode {stat.S_IMODE(info.st_mode):04o}),"
            " so what is in it cannot be trusted",
            hint=f"remove it: the next build makes it anew; or, if you know all who could: chmod 0700 {wall}",
        )


def others_may(wall: Path) -> str:
    """Return what users other than its owner may do with a pool, for a person; empty if nothing."""
    try:
        mode = stat.S_IMODE(os.stat(wall).st_mode)
    except FileNotFoundError:
        return ""
    return f"others may enter it (mode {mode:04o})" if mode & OTHERS else ""


def mend(backend: Backend) -> str:
    """Close a pool that others may enter, and what is in it; returns what was done, for a person, or nothing.

    Costs one look at the wall and one at a mark once it has been done. Raises OSError.
    """
    wall, done = backend.wall, backend.state / _DONE
    opened = others_may(wall)
    if not opened and done.exists():
        return ""
    count = _close(wall) + (backend.state != wall and _close(backend.state))
    if not backend.state.is_dir():
        return ""  # there is no pool yet; a directory that was given for one is ours from now on
    for top in (*(wall / kind for kind in Kind), backend.state / "work"):
        count += sum(map(_close, _folders(top)))
    waiting = [backend.state]
    while waiting:
        with contextlib.suppress(FileNotFoundError), os.scandir(waiting.pop()) as listing:
            for entry in listing:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _NOT_OURS or path.parent != backend.state:
                        waiting.append(path)
                    count += _close(path)
                elif entry.is_file(follow_symlinks=False):
                    count += _close(path)
    try:
        private_file(done)
    except OSError as error:
        if error.errno not in space.NUMBERS:
            raise
        # The disk is full, and this may be the command that makes room: it is all looked at again next time.
    if not count:
        return ""
    why = opened or "some of it could be read by others"
    return f"the pool {backend.uri} was made private: {why}; now only {_user(os.geteuid())} may"


def _folders(top: Path) -> list[Path]:
    """Return a directory of datasets and theirs; not what is in them, whose modes are those of an image."""
    try:
        with os.scandir(top) as listing:
            return [top, *(Path(entry.path) for entry in listing if entry.is_dir(follow_symlinks=False))]
    except (FileNotFoundError, NotADirectoryError):  # whoever needs the directory says so
        return []


def _close(path: Path) -> int:
    """Take from others what they may do with a file or directory. Returns how many were changed."""
    with contextlib.suppress(FileNotFoundError):  # another build is at work
        info = os.lstat(path)
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISREG(info.st_mode) and info.st_nlink > 1:
            return 0  # it was given out: an image that is a directory has it by another name
        if mode & OTHERS:
            os.chmod(path, mode & ~OTHERS)
            return 1
    return 0


def _may_be_written_by_others(info: os.stat_result) -> bool:
    if info.st_mode & stat.S_IWOTH:
        return True
    return bool(info.st_mode & stat.S_IWGRP) and not _is_own_group(info.st_gid)


def _is_own_group(gid: int) -> bool:
    """Whether this is the group of this user alone, which many systems make and let write by the umask."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
