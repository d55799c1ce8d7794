"""A way down a tree that others made, and up again: of any depth, and never out of it.

Each directory is opened relative to the one above, so that no path is ever too long, and few are held at a
time, so that no depth is too much. No link is followed, and no mount entered.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_HELD = 32
"""Descriptors that are held for directories on the way down; those above are opened again on the way up."""


@dataclass(slots=True, eq=False)
class Level:
    """A directory on the way down. fd: -1 while it is not held; left: the directories in it that are still to
    be entered; tries, stuck: for whoever walks."""

    name: str
    fd: int
    device: int
    inode: int
    left: list[str] = field(default_factory=list)
    tries: int = 0
    stuck: bool = False


class Descent:
    """One walk. levels: the directories from the top to where it is. A context manager: it closes them.

    Subclasses say what is done in each directory, and after it.
    """

    def __init__(self, top: int) -> None:
        """top: the descriptor of the top directory, which is taken over."""
        self.levels: list[Level] = []
        self._push(top, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        _close(self.levels)

    # -- for subclasses

    def arrive(self, level: Level) -> None:
        """Look at a directory that was entered, and set `left`."""
        raise NotImplementedError

    def leave(self, level: Level, above: Level) -> None:
        """Do what is to be done when all below a directory is done; its descriptor is closed by now."""

    def cannot_enter(self, name: str, error: OSError | None) -> None:
        """Note a directory of the last level that was not entered. error: None for a mount point."""

    # -- the walk

    def walk(self) -> None:
        """Enter all that is left of the top directory, and of what is below it."""
        while True:
            level = self.levels[-1]
            if level.left:
                self.enter(level.left.pop())
            elif len(self.levels) == 1:
                return
            else:
                self._go_up()

    def enter(self, name: str, *, tries: int = 0) -> None:
        """Go down into a directory of the last level. One that is not there any more is passed over."""
        above = self.levels[-1]
        try:
            fd = open_dir(name, above.fd)
        except FileNotFoundError:
            return
        except OSError as error:
            self.cannot_enter(name, error)
            return
        level = self._push(fd, name)
        level.tries = tries
        if level.device != above.device and not is_subvolume(fd, above.fd):
            self.levels.pop()
            os.close(fd)
            self.cannot_enter(name, None)
            return
        self.arrive(level)

    def _push(self, fd: int, name: str) -> Level:
        try:
            info = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        level = Level(name, fd, info.st_dev, info.st_ino)
        self.levels.append(level)
        # The top is always held: from there every level can be found again.
        if len(self.levels) > _HELD:
            far = self.levels[-_HELD]
            if far is not self.levels[0] and far.fd >= 0:
                os.close(far.fd)
                far.fd = -1
        return level

    def _go_up(self) -> None:
        level = self.levels.pop()
        above = self.levels[-1]
        try:
            found = above.fd >= 0 or self._find_again(level.fd)
        finally:
            os.close(level.fd)
        if found:
            self.leave(level, above)

    def _find_again(self, child: int) -> bool:
        """Open the last level again, from what was below it or else from the top.

        Returns False if it is not where it was: somebody else removes or moves the tree. Levels that are not
        to be found are dropped, and left to them.
        """
        level = self.levels[-1]
        with contextlib.suppress(OSError):
            fd = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=child)
            if _is_level(fd, level):
                level.fd = fd
                return True
            os.close(fd)
        above = self.levels[0]
        for index, step in enumerate(self.levels[1:], 1):
            held, fd = step.fd >= 0, step.fd
            with contextlib.suppress(OSError):
                if not held:
                    fd = open_dir(step.name, above.fd)
                    if not _is_level(fd, step):
                        os.close(fd)
                        fd = -1
            if fd < 0:
                _close(self.levels[index:])
                del self.levels[index:]
                return False
            step.fd = fd
            if index > 1 and not held:
                os.close(above.fd)
                above.fd = -1
            above = step
        return True

    def names(self) -> list[str]:
        """Return the names that lead from the top to where the walk is."""
        return [level.name for level in self.levels[1:]]


def _close(levels: list[Level]) -> None:
    for level in levels:
        if level.fd >= 0:
            os.close(level.fd)
            level.fd = -1


def open_dir(name: str, dir_fd: int) -> int:
    """Open a directory to list it; one of ours is made so that this and a change of it are allowed.

    Raises OSError, for a link of that name too.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=dir_fd)
    except PermissionError:
        _allow(name, dir_fd)
        fd = os.open(name, flags, dir_fd=dir_fd)
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o700 != 0o700 and os.geteuid() != 0:
        with contextlib.suppress(PermissionError):
            os.fchmod(fd, 0o700)
    return fd


def _allow(name: str, dir_fd: int) -> None:
    """Let us into a directory of ours that may not be opened; a link of that name is not followed."""
    if not hasattr(os, "O_PATH"):
        os.chmod(name, 0o700, dir_fd=dir_fd)
        return
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def _is_level(fd: int, level: Level) -> bool:
    info = os.fstat(fd)
    return (info.st_dev, info.st_ino) == (level.device, level.inode)


def is_subvolume(fd: int, above: int) -> bool:
    """Whether a directory on a device of its own is of a btrfs subvolume, and nothing that was mounted."""
    return _mount_of(fd) == _mount_of(above) != ""


def _mount_of(fd: int) -> str:
    """Return the number of the mount that a descriptor is on; empty where that cannot be told."""
    try:
        text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    except OSError:
        return ""
    return next((row for row in text.splitlines() if row.startswith("mnt_id:")), "")
