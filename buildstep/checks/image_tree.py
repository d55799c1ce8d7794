"""The tree of an image by its file list: where paths lead, links followed, without touching a disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from buildstep.tree.entry import Entry

_AT_RUN_TIME = frozenset((b"proc", b"sys", b"dev", b"run", b"tmp"))
"""Directories at the top that are filled when the image runs: what is missing there is not missing."""

_MOST_LINKS = 40
"""Links in a row that Linux follows (path_resolution(7))."""


class ImageTree:
    """A file list, seen as the root of an image. prefix: the path of the root in the list; empty for all;
    volumes: of the image's configuration, which are filled when it runs as /run is."""

    def __init__(
        self, entries: Mapping[bytes, Entry], prefix: bytes = b"", *, volumes: Iterable[str] = ()
    ) -> None:
        self.entries = entries
        self.prefix = prefix
        self._volumes = tuple(os.fsencode(volume).strip(b"/") + b"/" for volume in volumes)
        self._folders: dict[bytes, bytes | None] = {}

    def inside(self, path: bytes) -> bytes | None:
        """Return the path in the image of a path of the list; None for what is not in its root."""
        if not self.prefix:
            return path
        if path == self.prefix:
            return b""
        return path[len(self.prefix) + 1 :] if path.startswith(self.prefix + b"/") else None

    def get(self, path: bytes) -> Entry | None:
        """Return what is at a path of the image, a link itself."""
        if not self.prefix:
            return self.entries.get(path)
        return self.entries.get(self.prefix + b"/" + path if path else self.prefix)

    def walk(self) -> Iterator[tuple[bytes, Entry]]:
        """Yield all of the image, each with its path."""
        for name, entry in self.entries.items():
            path = self.inside(name)
            if path is not None:
                yield path, entry

    def leads(self, path: bytes, *, via: bytes = b"") -> bool:
        """Whether a path leads to something in the image, or to where things are when it runs.

        via: the directory that a relative path starts from.
        """
        real = self.resolve(path, via=via)
        return real is not None

    def find(self, path: bytes, *, via: bytes = b"") -> Entry | None:
        """Return what a path leads to, links followed; None where there is nothing in the image."""
        real = self.resolve(path, via=via)
        return None if real is None else self.get(real)

    def resolve(self, path: bytes, *, via: bytes = b"") -> bytes | None:
        """Return where a path really is, without links; None where it leads to nothing.

        What is below /proc, /run and their like, or a volume, is taken to be there.
        """
        at = b"" if path.startswith(b"/") else via
        if at:
            folder = self._folder(at)
            if folder is None:
                return None
            at = folder
        left = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
        followed = 0
        while left:
            part = left.pop()
            if part == b"..":
                at = at.rpartition(b"/")[0]
                continue
            here = at + b"/" + part if at else part
            entry = self.get(here)
            if entry is None:
                whole = b"/".join([here, *reversed(left)])
                return whole if self._at_run_time(whole) else None
            if entry.kind == "l":
                followed += 1
                if followed > _MOST_LINKS:
                    return None
                if entry.target.startswith(b"/"):
                    at = b""
                left += [word for word in reversed(entry.target.split(b"/")) if word not in (b"", b".")]
                continue
            if left and entry.kind != "d":
                return None
            at = here
        return at

    def _at_run_time(self, path: bytes) -> bool:
        """Whether something may be there when the image runs that is not in it."""
        return path.partition(b"/")[0] in _AT_RUN_TIME or (path + b"/").startswith(self._volumes)

    def _folder(self, path: bytes) -> bytes | None:
        """Return where a directory really is. Kept: many files are in the same one."""
        if path not in self._folders:
            self._folders[path] = self.resolve(b"/" + path)
        return self._folders[path]
