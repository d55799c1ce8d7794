"""Paths inside a root: glob patterns, and walks that follow no link."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase

from buildstep.system.root import Root
from buildstep.tree.entry import LONGEST, check_length


def matches(root: Root, pattern: str, mounted: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the paths that match a pattern with `*` in any component; only the last may be a link.

    mounted: paths that are left out with all below them, here and in `walk`.
    """
    *folders, last = pattern.strip("/").split("/")
    heads = [""]
    for folder in folders:
        heads = [path for head in heads for path in fitting(root, head, folder) if path not in mounted]
    for head in heads:
        yield from (path for path in fitting(root, head, last) if path not in mounted)


def walk(root: Root, top: str, mounted: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield all paths below a directory that are not directories themselves. Raises PathTooLong."""
    waiting = [iter(_listed(root, top))] if _is_plain_folder(root, top) else []
    while waiting:
        path, is_folder = next(waiting[-1], ("", False))
        if not path:
            waiting.pop()
            continue
        if len(path) > LONGEST:
            check_length(os.fsencode(path.strip("/")))
        if path in mounted:
            continue
        if is_folder:
            # What leads to it are directories, as the listings said: no link is on the way.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                waiting.append(iter(_listed(root, path)))
        else:
            yield path


def _is_plain_folder(root: Root, head: str) -> bool:
    """Return whether a path leads to a directory, with no link on the way."""
    return root.real(head or "/") == (head or "/") and root.is_dir(head or "/")


def _listed(root: Root, head: str) -> list[tuple[str, bool]]:
    """Return the paths in a directory, sorted, and whether each is a directory. Raises OSError."""
    fd = root.open(head or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with os.scandir(fd) as entries:
            return sorted((f"{head}/{entry.name}", entry.is_dir(follow_symlinks=False)) for entry in entries)
    finally:
        os.close(fd)


def fitting(root: Root, head: str, pattern: str) -> list[str]:
    """Return the entries of a directory that match; none where the directory's path has a link in it."""
    if not _is_plain_folder(root, head):
        return []
    if not any(char in pattern for char in "*?["):
        path = f"{head}/{pattern}"
        return [path] if root.lstat(path) is not None else []
    return [path for path, _ in _listed(root, head) if fnmatchcase(path.rpartition("/")[2], pattern)]
