"""Paths inside a root: glob patterns, and walks that follow no link."""

from __future__ import annotations

import os
import stat
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
    waiting = [iter(fitting(root, top, "*"))]
    while waiting:
        path = next(waiting[-1], None)
        if path is None:
            waiting.pop()
            continue
        if len(path) > LONGEST:
            check_length(os.fsencode(path.strip("/")))
        found = root.lstat(path)
        if found is None or path in mounted:
            continue
        if stat.S_ISDIR(found.st_mode):
            waiting.append(iter(fitting(root, path, "*")))
        else:
            yield path


def fitting(root: Root, head: str, pattern: str) -> list[str]:
    """Return the entries of a directory that match; none where the directory's path has a link in it."""
    if root.real(head or "/") != (head or "/") or not root.is_dir(head or "/"):
        return []
    if not any(char in pattern for char in "*?["):
        path = f"{head}/{pattern}"
        return [path] if root.lstat(path) is not None else []
    fd = root.open(head or "/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = os.listdir(fd)
    finally:
        os.close(fd)
    return [f"{head}/{name}" for name in sorted(names) if fnmatchcase(name, pattern)]
