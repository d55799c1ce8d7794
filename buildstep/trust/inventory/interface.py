"""What the readers of package databases share: the image that is being read, and what was found so far."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from buildstep.system.text import shown_path
from buildstep.tree.entry import Entry
from buildstep.trust.inventory.model import Component, Distro, Source

MOST = 64 << 20
"""Bytes of one file of a database: that of all packages that Debian has would be as large."""

MOST_COMPONENTS = 200_000
"""Components of one image: what names more than these is no image that anyone made on purpose."""

ROOTS = (b"", b"root/")
"""Where a system begins in an image: a zone image has its own in root/, beside the zone's configuration."""

_MOST_LINKS = 40
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")


def plain(text: str, limit: int = 1000) -> str:
    """Return a value of a database on one line, without control characters, of a bounded length."""
    return _CONTROL.sub(" ", text[: limit * 2]).strip()[:limit]


@dataclass(frozen=True, kw_only=True, slots=True)
class Database:
    """A row of the table. what: as people know it; read: adds what it finds to a Reading."""

    name: str
    what: str
    read: Callable[[Reading], None]


class Reading:
    """An image while its databases are read, one after the other: a file that one of them owns is left alone
    by those that come later.

    owned: paths that have an owner; components: what was found; unknown: what could not be read, a sentence
    each, for people.
    """

    def __init__(self, source: Source, distro: Distro) -> None:
        self.source = source
        self.distro = distro
        self.entries = source.entries
        self.paths = sorted(self.entries)
        self.components: list[Component] = []
        self.owned: set[bytes] = set()
        self.unknown: list[str] = []
        self._folders: dict[bytes, bytes] = {}
        self._names: dict[bytes, list[bytes]] | None = None

    def add(self, component: Component) -> None:
        """Add a component; its files have an owner from now on."""
        if len(self.components) < MOST_COMPONENTS:
            self.components.append(component)
        elif len(self.components) == MOST_COMPONENTS:
            self.tell(f"it names more than {MOST_COMPONENTS} components, and the others are not listed")
            self.components.append(component)
        self.owned.update(component.files)

    def tell(self, sentence: str) -> None:
        """Note something that could not be read, once."""
        if sentence not in self.unknown:
            self.unknown.append(sentence)

    # -- paths ----------------------------------------------------------------------------------------

    def under(self, folder: bytes) -> Iterator[bytes]:
        """Yield all paths below a directory, whose own path ends in a slash, in order."""
        at = bisect_left(self.paths, folder)
        while at < len(self.paths) and self.paths[at].startswith(folder):
            yield self.paths[at]
            at += 1

    def named(self, name: bytes) -> list[bytes]:
        """Return the regular files of this name, anywhere, in order."""
        if self._names is None:
            names: dict[bytes, list[bytes]] = {}
            for path in self.paths:
                names.setdefault(path[path.rfind(b"/") + 1 :], []).append(path)
            self._names = names
        return [path for path in self._names.get(name, ()) if self.entries[path].kind == "f"]

    def ending(self, end: bytes) -> list[bytes]:
        """Return the paths that end so, in order."""
        return [path for path in self.paths if path.endswith(end)]

    def real(self, path: bytes, root: bytes = b"") -> bytes:
        """Return a path with all links followed, each seen from the root it lies in. What leads in a circle
        is returned as it is."""
        todo, done, links = path.split(b"/")[::-1], list[bytes](), 0
        while todo:
            part = todo.pop()
            if part == b"..":
                del done[-1:]
            elif part not in (b"", b"."):
                done.append(part)
                entry = self.entries.get(root + b"/".join(done))
                if entry is not None and entry.kind == "l":
                    links += 1
                    if links > _MOST_LINKS:
                        return root + path
                    done = [] if entry.target.startswith(b"/") else done[:-1]
                    todo.extend(entry.target.split(b"/")[::-1])
        return root + b"/".join(done)

    def place(self, path: bytes, root: bytes = b"") -> bytes:
        """Return where a path of a database is: the links of its directories are followed (/bin is usr/bin
        since usr-merge), its own is not."""
        folder, slash, name = path.rpartition(b"/")
        key = root + folder
        known = self._folders.get(key)
        if known is None:
            known = self._folders[key] = (self.real(folder, root) if slash else root).rstrip(b"/")
        return known + b"/" + name if known else name

    def present(self, paths: Collection[bytes], root: bytes = b"") -> tuple[bytes, ...]:
        """Return where those of a database's paths are that the image has, in order. Directories are left
        out, those that became a link with them."""
        folders = {path[: path.rfind(b"/")] for path in paths if b"/" in path}
        places = {self.place(path, root) for path in paths if path not in folders}
        entries = self.entries
        return tuple(sorted(it for it in places if it in entries and entries[it].kind != "d"))

    # -- content --------------------------------------------------------------------------------------

    def file(self, path: bytes, root: bytes = b"") -> Entry | None:
        """Return the regular file that a path leads to; None where there is none."""
        entry = self.entries.get(self.real(path, root))
        return entry if entry is not None and entry.kind == "f" else None

    def read(self, path: bytes, root: bytes = b"", limit: int = MOST) -> bytes | None:
        """Return the content of the file that a path leads to; None where there is none. One that is too
        large is told as unknown."""
        entry = self.file(path, root)
        if entry is None:
            return None
        data = self.source.read(entry.path, limit)
        if data is None:
            self.tell(f"{shown_path(entry.path)} of {entry.size} bytes is not read: at most {limit} are")
        return data

    def text(self, path: bytes, root: bytes = b"", limit: int = MOST) -> str | None:
        """Return the content as text, with what is no UTF-8 replaced."""
        data = self.read(path, root, limit)
        return None if data is None else data.decode(errors="replace").replace("\r\n", "\n")
