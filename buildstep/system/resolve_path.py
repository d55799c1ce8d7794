"""Paths inside a root, component by component, where the kernel has no openat2(2).

Every step is taken from an open directory and never through a link: a link is read and followed by us, and
leads from the root when it is absolute, and never above it. Whoever changes the tree meanwhile can make a
step fail, but not make it leave the root.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Self

_MOST_LINKS = 40

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place:
    """Where a path leads: an open directory, the last name in it ("." for the root), the path without links.

    Use as a context manager, which closes the directory.
    """

    def __init__(self, root: Path, path: str, *, follow: bool = True) -> None:
        """follow: whether a link under the last name is followed. Raises OSError."""
        self._opened = [os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        self._names: list[str] = []
        self.name = "."
        try:
            self._walk(path, follow=follow)
        except BaseException:
            self.close()
            raise

    def _walk(self, path: str, *, follow: bool) -> None:
        todo = _parts(path)
        links = 0
        while todo:
            name = todo.pop(0)
            if name == ".":
                continue  # what was before it has been opened, so it is a directory
            if name == "..":
                if self._names:
                    self._names.pop()
                    os.close(self._opened.pop())
                continue
            target = None if not todo and not follow else _link(name, self.fd)
            if target is not None:
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    self._back_to_root()
                todo = _parts(target) + todo
            elif todo:
                self._opened.append(os.open(name, _FOLDER, dir_fd=self.fd))
                self._names.append(name)
            else:
                self.name = name

    def _back_to_root(self) -> None:
        while self._names:
            self._names.pop()
            os.close(self._opened.pop())

    @property
    def fd(self) -> int:
        return self._opened[-1]

    @property
    def real(self) -> str:
        return "/" + "/".join([*self._names, *([] if self.name == "." else [self.name])])

    def stat(self) -> os.stat_result:
        return os.stat(self.name, dir_fd=self.fd, follow_symlinks=False)

    def open(self, flags: int, mode: int) -> int:
        return os.open(self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.fd)

    def close(self) -> None:
        while self._opened:
            os.close(self._opened.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parts(path: str) -> list[str]:
    """The names in a path; a slash at its end asks for a directory, as a dot does."""
    return [part for part in path.split("/") if part] + (["."] if path.endswith("/") else [])


def _link(name: str, fd: int) -> str | None:
    """What a link says; None for anything else, also for what is not there: the next step tells that."""
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


# -- what fsutil.Root asks --------------------------------------------------------------------------------


def open_inside(root: Path, path: str, flags: int, mode: int) -> int:
    """A descriptor of a path inside. Raises OSError."""
    follow = not flags & os.O_NOFOLLOW and not (flags & os.O_CREAT and flags & os.O_EXCL)
    with Place(root, path, follow=follow) as place:
        return place.open(flags, mode)


def real_inside(root: Path, path: str) -> str | None:
    """Where a path inside really is, from the root, without links; None if it is not."""
    found = stat_inside(root, path)
    return None if found is None else found[0]


def stat_inside(root: Path, path: str) -> tuple[str, os.stat_result] | None:
    """The same, with what is there."""
    try:
        with Place(root, path) as place:
            return place.real, place.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
