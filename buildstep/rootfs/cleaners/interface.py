"""What a cleaner is, and what it works with. Nothing here follows a link or enters a mount."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildstep.events import Cleaned
from buildstep.rootfs.glob import fitting, matches, walk
from buildstep.rootfs.leak_check import CiHost, mounted_paths
from buildstep.system.descend import Descent, Level
from buildstep.system.root import Root

SHOWN = 20
"""How many of the removed paths an event names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanOptions:
    """What cleaners know about a build.

    ci_host: what the CI host has that no image may have; zone: the directory around `root/` in a zone image;
    made: directories that the build made to mount on; keep: paths from the proto directory, which stay;
    changed: paths that the build added or changed, to search for secrets (None: /etc and a few others).
    """

    ci_host: CiHost
    zone: Path | None = None
    made: Sequence[str] = ()
    keep: frozenset[str] = frozenset()
    changed: Sequence[str] | None = None


class Cleaning:
    """A root that cleaners work on: they find and remove paths with it, and it counts what they remove.

    mounted: paths in the root that are mount points.
    """

    def __init__(self, root: Root, options: CleanOptions) -> None:
        self.root = root
        self.options = options
        self.mounted = frozenset(mounted_paths(root))
        self._protected = sorted(options.keep | self.mounted)
        self._paths = self._bytes = 0
        self._names: list[str] = []

    def run(self, cleaner: Cleaner) -> Cleaned:
        """Run one cleaner and return what it removed."""
        self._paths = self._bytes = 0
        self._names = []
        cleaner.clean(self)
        return Cleaned(cleaner=cleaner.name, paths=self._paths, bytes=self._bytes, names=tuple(self._names))

    def count(self, path: str, size: int, *, paths: int = 1) -> None:
        """Count a path as removed or emptied. size: bytes saved; paths: how many it stands for."""
        self._paths += paths
        self._bytes += size
        if len(self._names) < SHOWN:
            self._names.append(path)

    def remove(self, path: str) -> None:
        """Remove a path and count it. What holds a mount, or came from the proto directory, stays."""
        waiting = [path]
        while waiting:
            waiting += reversed(self._remove(waiting.pop()))

    def _remove(self, path: str) -> list[str]:
        """Remove a path; or, where something in it stays, return those in it, which are to go one by one."""
        at = bisect_left(self._protected, path)
        if at < len(self._protected) and self._protected[at] == path:
            return []
        if any(path.startswith(point + "/") for point in self.mounted):
            return []
        at = bisect_left(self._protected, path + "/")
        inside = at < len(self._protected) and self._protected[at].startswith(path + "/")
        found = self.root.lstat(path)
        if found is None:
            return []
        if inside:
            return fitting(self.root, path, "*") if stat.S_ISDIR(found.st_mode) else []
        paths, size = measure(self.root, path, found)
        self.root.remove(path)
        self.count(path, size, paths=paths)
        return []

    def remove_matching(self, *patterns: str) -> None:
        """Remove all paths that match a pattern, in which any component can have a `*`."""
        for pattern in patterns:
            for path in matches(self.root, pattern, self.mounted):
                self.remove(path)

    def walk(self, top: str) -> Iterator[str]:
        """Yield all paths below a directory that are not directories themselves."""
        return walk(self.root, top, self.mounted)


@dataclass(frozen=True, slots=True)
class Cleaner:
    """A table row. clean: the function that does it; default: whether it runs unless a manifest says
    otherwise."""

    name: str
    description: str
    clean: Callable[[Cleaning], None]
    default: bool = True


def measure(root: Root, path: str, found: os.stat_result) -> tuple[int, int]:
    """Return how many paths and bytes there are at a path and below it. found: its lstat."""
    if not stat.S_ISDIR(found.st_mode):
        return 1, found.st_size if stat.S_ISREG(found.st_mode) else 0
    with _Measure(root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)) as measured:
        measured.arrive(measured.levels[0])
        measured.walk()
        return measured.paths, measured.size


class _Measure(Descent):
    """paths, size: how many, and their bytes, so far."""

    paths, size = 1, 0

    def arrive(self, level: Level) -> None:
        with os.scandir(level.fd) as entries:
            for entry in entries:
                self.paths += 1
                if entry.is_dir(follow_symlinks=False):
                    level.left.append(entry.name)
                elif entry.is_file(follow_symlinks=False):
                    self.size += entry.stat(follow_symlinks=False).st_size

    def leave(self, level: Level, above: Level) -> None:
        """Nothing is left to do."""
