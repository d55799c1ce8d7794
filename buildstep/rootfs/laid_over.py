"""A root with a proto directory laid over it, whose files are read where they are and are not in the root.

What a step looks up and changes there is the same whether those files were copied or not.
"""

from __future__ import annotations

import contextlib
import os
import stat

from buildstep.system.root import Root
from buildstep.tree.entry import KINDS, FileList

_MOST_LINKS = 40  # as many as the kernel follows


class LaidOver:
    """Both together, as they will be in the image. Paths begin with a slash.

    overlay: the entries by their paths in the dataset, of which those that are removed or replaced are taken
    out; prefix: the path of the root in the dataset.
    """

    def __init__(self, root: Root, overlay: FileList, prefix: str = "") -> None:
        self._root, self._overlay, self._prefix = root, overlay, os.fsencode(prefix)
        self._inside: dict[bytes, list[bytes]] | None = None

    def _key(self, path: str) -> bytes:
        return os.path.join(self._prefix, os.fsencode(path.strip("/"))).rstrip(b"/")

    def _laid(self, folder: bytes) -> set[bytes]:
        """Return the names that the overlay has in a directory."""
        if self._inside is None:  # there may be a hundred thousand paths, and several questions
            self._inside = {}
            for path in self._overlay:
                self._inside.setdefault(path.rpartition(b"/")[0], []).append(path)
        there = [path for path in self._inside.get(folder, ()) if path in self._overlay]
        return {path.rpartition(b"/")[2] for path in there}

    def look(self, path: str) -> tuple[str, str]:
        """Return the kind (of `tree.entry.KINDS`) of what is at a path, and where a link leads; empty texts
        for nothing. No link is followed: the directories of the path are to be real ones."""
        entry = self._overlay.get(self._key(path))
        if entry is not None:
            return entry.kind, os.fsdecode(entry.target) if entry.kind == "l" else ""
        if path == "/":
            return "d", ""
        info = self._root.lstat(path)
        if info is None:
            return "", ""
        kind = KINDS[stat.S_IFMT(info.st_mode)]
        if kind != "l":
            return kind, ""
        with self._root.parent(path) as (fd, name):
            return kind, os.readlink(name, dir_fd=fd)

    def real(self, path: str) -> str:
        """Return a path with every link on the way resolved, the last one too; what is not there is kept."""
        todo, here, followed = path.split("/"), "", 0
        while todo:
            name = todo.pop(0)
            if name in ("", "."):
                continue
            if name == "..":
                here = here.rpartition("/")[0]
                continue
            kind, target = self.look(f"{here}/{name}")
            if kind != "l" or followed >= _MOST_LINKS:
                here = f"{here}/{name}"
                continue
            followed += 1
            here = "" if target.startswith("/") else here
            todo = target.split("/") + todo
        return here or "/"

    def place(self, path: str) -> str:
        """Return a path with the links of its directories resolved, but not itself."""
        head, _, name = path.rstrip("/").rpartition("/")
        return f"{self.real(head or '/').rstrip('/')}/{name}"

    def read(self, path: str) -> bytes:
        """Return the content of a file, links followed. Raises OSError."""
        real = self.real(path)
        entry = self._overlay.get(self._key(real))
        if entry is not None and entry.source and entry.kind == "f":
            with open(entry.source, "rb") as stream:
                return stream.read()
        return self._root.read(real)

    def names(self, folder: str) -> list[str]:
        """Return the names in a directory, sorted; none where it is not there."""
        real = self.real(folder)
        found = self._laid(self._key(real))
        if self._root.is_dir(real):
            fd = self._root.open(real, os.O_RDONLY | os.O_DIRECTORY)
            try:
                found |= set(map(os.fsencode, os.listdir(fd)))
            finally:
                os.close(fd)
        return sorted(map(os.fsdecode, found - {b""}))

    def link(self, path: str, target: str) -> None:
        """Make a link, in place of a link or a file that is there, and the directories above it."""
        place = self.place(path)
        self._root.make_dirs(os.path.dirname(place))
        self.remove(place)
        with self._root.parent(place) as (fd, name):
            os.symlink(target, name, dir_fd=fd)

    def remove(self, path: str) -> None:
        """Remove a link or a file."""
        place = self.place(path)
        self._overlay.pop(self._key(place), None)
        self._root.remove(place)

    def remove_empty(self, folder: str) -> bool:
        """Remove a directory, if it has nothing in it; whether it is gone."""
        if self.names(folder):
            return False
        place = self.real(folder)
        self._overlay.pop(self._key(place), None)
        with contextlib.suppress(FileNotFoundError), self._root.parent(place) as (fd, name):
            os.rmdir(name, dir_fd=fd)
        return True
