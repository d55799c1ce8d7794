"""Glob patterns inside a root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase

from buildstep.system.root import Root

# -- looking into a root -------------------------------------------------------------------------------------


def matches(root: Root, pattern: str, mounted: frozenset[str] = frozenset()) -> Iterator[str]:
    """Paths in the root that a pattern with `*` in any component fits; only the last may be a link."""
    *folders, last = pattern.strip("/").split("/")
    heads = [""]
    for folder in folders:
        heads = [path for head in heads for path in fitting(root, head, folder) if path not in mounted]
    for head in heads:
        yield from (path for path in fitting(root, head, last) if path not in mounted)


def fitting(root: Root, head: str, pattern: str) -> list[str]:
    """Entries of a directory that fit; none where the directory's path has a link in it."""
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
