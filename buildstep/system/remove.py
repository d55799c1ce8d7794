"""Removal of trees that others made. What cannot be removed is left and named, and all else goes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

from buildstep.errors import DatasetError
from buildstep.system.descend import Descent, Level, is_subvolume, open_dir
from buildstep.system.text import shown_path

_TOLD = 10
"""Of how many things that cannot be removed the error tells the path."""

_AGAIN = 3
"""How often a directory is emptied again that somebody fills meanwhile, or empties with us."""

_SET_SUBVOLUME_FLAGS = 0x4008941A  # linux/btrfs.h


def remove_tree(path: Path | str) -> None:
    """Remove a file or a tree without following a link or crossing into another file system.

    Nothing is done when there is none. Raises DatasetError that names what could not be removed, such as what
    is below a mount; all else is gone then.
    """
    folder, name = os.path.split(os.path.abspath(path))
    try:
        parent = os.open(folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    with _Removal(parent, folder) as removal:
        removal.remove(name)
        removal.check()


def remove_children(fd: int, path: str) -> None:
    """Empty the directory that `fd` has open; `path` is for messages. Raises as `remove_tree` does."""
    with _Removal(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd), path) as removal:
        removal.empty()
        removal.check()


def remove_at(fd: int, name: str | bytes, path: str) -> None:
    """Remove what has a name in the directory that `fd` has open, a whole tree too; `path` is for messages.

    Raises as `remove_tree` does, and OSError, FileNotFoundError where there is nothing.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=fd)
        return
    child = open_dir(os.fsdecode(name), fd)
    try:
        if os.fstat(child).st_dev != os.fstat(fd).st_dev and not is_subvolume(child, fd):
            raise mounted_inside(path)
        remove_children(child, path)
    finally:
        os.close(child)
    os.rmdir(name, dir_fd=fd)


class _Removal(Descent):
    """problems: what cannot be removed, the first few; a level is stuck when something in it stays."""

    def __init__(self, top: int, path: str) -> None:
        super().__init__(top)
        self._path = path.rstrip("/")
        self._problems: list[tuple[str, OSError | None]] = []
        self._count = 0

    def remove(self, name: str) -> None:
        """Remove one entry of the top directory, with all that is below it."""
        top = self.levels[0]
        try:
            info = os.stat(name, dir_fd=top.fd, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                os.unlink(name, dir_fd=top.fd)
                return
        except FileNotFoundError:
            return
        except OSError as error:
            self.cannot_enter(name, error)
            return
        top.left = [name]
        self.walk()

    def empty(self) -> None:
        """Remove all that is in the top directory."""
        self.arrive(self.levels[0])
        self.walk()

    def check(self) -> None:
        """Raise DatasetError for what could not be removed."""
        if not self._problems:
            return
        path, error = self._problems[0]
        if self._count == 1 and error is None:
            raise mounted_inside(path)
        rest = self._count - len(self._problems)
        lines = [f"  {where}: {_reason(problem)}" for where, problem in self._problems]
        lines += [f"  and {rest} more"] if rest else []
        more = f", and {self._count - 1} more" if self._count > 1 else ""
        raise DatasetError(
            f"cannot remove {path}: {_reason(error)}{more}",
            detail="\n".join(lines) if self._count > 1 else "",
            hint=_hint(error),
        ) from error

    def arrive(self, level: Level) -> None:
        """Remove the files of a directory, and note the directories in it."""
        if len(self.levels) > 1 and level.device != self.levels[-2].device:
            with contextlib.suppress(OSError):
                fcntl.ioctl(level.fd, _SET_SUBVOLUME_FLAGS, bytes(8))  # a subvolume: read-only no more
        try:
            with os.scandir(level.fd) as entries:
                listing = list(entries)
        except OSError as error:
            self._failed("", error)
            return
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                level.left.append(entry.name)
                continue
            try:
                os.unlink(entry.name, dir_fd=level.fd)
            except FileNotFoundError:  # somebody removes the same tree
                pass
            except OSError as error:
                self._failed(entry.name, error)

    def leave(self, level: Level, above: Level) -> None:
        """Remove a directory that was emptied."""
        if level.stuck:
            above.stuck = True
            return
        try:
            os.rmdir(level.name, dir_fd=above.fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno == errno.ENOTEMPTY and level.tries < _AGAIN:
                self.enter(level.name, tries=level.tries + 1)
            else:
                self._failed(level.name, error)

    def cannot_enter(self, name: str, error: OSError | None) -> None:
        self._failed(name, error)

    def _failed(self, name: str, error: OSError | None) -> None:
        """Note an entry of the last level as one that stays. error: None for a mount point."""
        self.levels[-1].stuck = True
        self._count += 1
        if len(self._problems) < _TOLD:
            path = "/".join([self._path, *self.names(), *([name] if name else [])])
            self._problems.append((shown_path(os.fsencode(path)), error))


def mounted_inside(path: str) -> DatasetError:
    """Return the error for a mount point in what is to be removed."""
    return DatasetError(
        f"{path} is a mount point, and was not removed",
        hint="unmount it; nothing below a mount is deleted by a build",
    )


def _reason(error: OSError | None) -> str:
    if error is None:
        return "it is a mount point"
    return error.strerror or str(error)


def _hint(error: OSError | None) -> str:
    match None if error is None else error.errno:
        case None | errno.EBUSY:
            return "something is mounted there, or uses it: unmount it, or end that process"
        case errno.EPERM:
            return "is it immutable (`lsattr -d`, then `chattr -i -a`), or somebody else's?"
        case errno.EACCES:
            return "it belongs to another user, who can remove it, or root"
        case _:
            return "remove it by hand, when the reason is gone"
