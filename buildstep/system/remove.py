"""Removal that never crosses a mount and never follows a link."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from buildstep.errors import DatasetError


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
        raise mounted_inside(path)
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
                    raise mounted_inside(f"{path}/{entry.name}")
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
    """Call unlink or rmdir, also in a directory of ours whose mode forbids us to write."""
    try:
        act(name, dir_fd=dir_fd)
    except PermissionError:
        os.fchmod(dir_fd, 0o700)
        act(name, dir_fd=dir_fd)


def mounted_inside(path: str) -> DatasetError:
    """Return the error for a mount point in what is to be removed."""
    return DatasetError(
        f"{path} is a mount point, and was not removed",
        hint="unmount it; nothing below a mount is deleted by a build",
    )
