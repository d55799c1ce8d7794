"""An image for the readers of package databases: its files written by hand, or a directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from buildstep.tree.entry import Entry, FileList
from buildstep.tree.scan import scan
from buildstep.trust.inventory.gather import inventory_of
from buildstep.trust.inventory.model import Component, Inventory, Origin

DEBIAN = (
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nID=debian\n'
)


class Link(str):
    """Where a link leads."""


Content = str | bytes | Link | None
"""None: a directory."""


class HandMade:
    """An image of files that are written down: path to content. programs: paths with the bit of a program;
    steps: a path's step, "base" where it has none."""

    def __init__(
        self,
        files: Mapping[str, Content],
        programs: Iterable[str] = (),
        steps: Mapping[str, str] | None = None,
    ) -> None:
        self.contents: dict[bytes, bytes] = {}
        self.entries: FileList = {}
        self.hashed: list[bytes] = []
        self._steps = {os.fsencode(path): step for path, step in (steps or {}).items()}
        for text, content in files.items():
            path = os.fsencode(text)
            for at, letter in enumerate(path):
                if letter == ord("/"):
                    self.entries.setdefault(path[:at], Entry(path[:at], "d", 0o755, 0, 0))
            if content is None:
                self.entries[path] = Entry(path, "d", 0o755, 0, 0)
            elif isinstance(content, Link):
                self.entries[path] = Entry(path, "l", 0o777, 0, 0, target=os.fsencode(content))
            else:
                data = content.encode() if isinstance(content, str) else content
                self.contents[path] = data
                mode = 0o755 if text in programs else 0o644
                self.entries[path] = Entry(path, "f", mode, 0, 0, len(data))

    def read(self, path: bytes, limit: int) -> bytes | None:
        data = self.contents.get(path)
        return data if data is not None and len(data) <= limit else None

    def head(self, path: bytes, size: int) -> bytes:
        return self.contents.get(path, b"")[:size]

    def sha256(self, paths: Iterable[bytes]) -> Mapping[bytes, str]:
        self.hashed = list(paths)
        return {path: hashlib.sha256(self.contents[path]).hexdigest() for path in self.hashed}

    def sha1(self, paths: Iterable[bytes]) -> Mapping[bytes, str]:
        return {path: hashlib.sha1(self.contents[path]).hexdigest() for path in paths}

    def origin(self, path: bytes) -> Origin:
        return Origin(step=self._steps.get(path, "base"))


class OnDisk:
    """An image that lies in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self.entries = scan(root)

    def _open(self, path: bytes) -> Path:
        return Path(os.fsdecode(os.path.join(self._root, path)))

    def read(self, path: bytes, limit: int) -> bytes | None:
        entry = self.entries.get(path)
        if entry is None or entry.kind != "f" or entry.size > limit:
            return None
        return self._open(path).read_bytes()

    def head(self, path: bytes, size: int) -> bytes:
        with self._open(path).open("rb") as stream:
            return stream.read(size)

    def sha256(self, paths: Iterable[bytes]) -> Mapping[bytes, str]:
        return {path: hashlib.sha256(self._open(path).read_bytes()).hexdigest() for path in paths}

    def sha1(self, paths: Iterable[bytes]) -> Mapping[bytes, str]:
        return {path: hashlib.sha1(self._open(path).read_bytes()).hexdigest() for path in paths}

    def origin(self, path: bytes) -> Origin:
        return Origin(step="base")


def inventory(files: Mapping[str, Content], programs: Iterable[str] = ()) -> Inventory:
    return inventory_of(HandMade(files, programs), name="image")


def only(found: Inventory, name: str) -> Component:
    (component,) = [row for row in found.components if row.name == name]
    return component
