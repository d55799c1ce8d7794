"""A finished image as an inventory reads it: list, contents, and what brought each path."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from buildstep.checks.image_tree import ImageTree
from buildstep.formats.spool import Spool
from buildstep.system.files import CHUNK
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.hashing import hash_entries, open_content
from buildstep.trust.inventory.model import Origin

OURS = "buildstep"
"""By what the history of an image says that we made a layer."""

_TITLES = (
    (
        re.compile(r"proto directory(, part .*)?|what is removed from the base|directories of the proto.*"),
        "sync",
    ),
    (re.compile(r"packages: .*", re.DOTALL), "packages"),
    (re.compile(r"command: (?P<name>.*)", re.DOTALL), "run"),
    (re.compile("commands"), "run"),
    (re.compile("cleaned"), "clean"),
    (re.compile("message of the day"), "motd"),
    (re.compile("(accounts|units)"), ""),
)
"""What the history says of our layers, and the step that made such a one; empty: its own word."""


class Reader(Protocol):
    """Reads so many bytes of a file from an offset on, or what there is of them."""

    def __call__(self, entry: Entry, size: int, offset: int = 0) -> bytes: ...


class ImageContents:
    """An image that is read for its inventory. It has the form of `trust.inventory.model.Source`.

    read_part: reads files; origin_of: tells where a path came from.
    """

    def __init__(self, entries: FileList, read_part: Reader, origin_of: Callable[[bytes], Origin]) -> None:
        self.entries = entries
        self._tree = ImageTree(entries)
        self._read_part = read_part
        self._origin_of = origin_of

    def _file(self, path: bytes) -> Entry | None:
        entry = self._tree.find(b"/" + path)
        return entry if entry is not None and entry.kind == "f" else None

    def read(self, path: bytes, limit: int) -> bytes | None:
        """Return a regular file's content, links followed within the image; None where there is none of at
        most `limit` bytes."""
        entry = self._file(path)
        return None if entry is None or entry.size > limit else self._read_part(entry, entry.size)

    def head(self, path: bytes, size: int) -> bytes:
        """Return the first bytes of a regular file; empty where there is none."""
        entry = self._file(path)
        return b"" if entry is None else self._read_part(entry, min(size, entry.size))

    def sha256(self, paths: Iterable[bytes]) -> Mapping[bytes, str]:
        """Return the SHA-256 in hex of regular files."""
        found = [self.entries[path] for path in paths if self.entries[path].kind == "f"]
        return {entry.path: entry.sha256 for entry in found}

    def sha1(self, paths: Iterable[bytes]) -> Mapping[bytes, str]:
        """Return the SHA-1 in hex of regular files, which are read for it."""
        known: dict[str, str] = {}
        found = {}
        for path in paths:
            entry = self.entries[path]
            if entry.kind == "f":
                if entry.sha256 not in known:
                    known[entry.sha256] = self._sha1(entry)
                found[path] = known[entry.sha256]
        return found

    def _sha1(self, entry: Entry) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for offset in range(0, entry.size, CHUNK):
            digest.update(self._read_part(entry, CHUNK, offset))
        return digest.hexdigest()

    def origin(self, path: bytes) -> Origin:
        """Return where a path came from."""
        return self._origin_of(path)


def of_spool(entries: FileList, spool: Spool, origin_of: Callable[[bytes], Origin]) -> ImageContents:
    """Return the image of an archive that was listed by a `Spool`."""

    def read_part(entry: Entry, size: int, offset: int = 0) -> bytes:
        return spool.read_content(entry.sha256, size, offset)

    return ImageContents(entries, read_part, origin_of)


def of_tree(entries: FileList, top: Path, origin_of: Callable[[bytes], Origin]) -> ImageContents:
    """Return the image whose files lie in a directory. Reading one raises OSError where it is gone."""
    root = os.fsencode(top)
    hash_entries(root, entries.values())

    def read_part(entry: Entry, size: int, offset: int = 0) -> bytes:
        with os.fdopen(open_content(root, entry), "rb", buffering=0) as stream:
            pieces, at = [], offset
            while size > 0 and (data := os.pread(stream.fileno(), size, at)):
                pieces.append(data)
                at, size = at + len(data), size - len(data)
        return b"".join(pieces)

    return ImageContents(entries, read_part, origin_of)


# -- layers -----------------------------------------------------------------------------------------------


def origins(made: Mapping[bytes, int], steps: Sequence[str]) -> Callable[[bytes], Origin]:
    """Return what tells where a path came from. made: the number, from 1, of the layer that made it what it
    is; steps: of each layer, from `steps_of`, lowest first; none for an image without layers."""
    rows = [Origin(step=step, layer=number) for number, step in enumerate(steps)]
    unknown = rows[0] if len(rows) == 1 and not made else Origin()

    def origin_of(path: bytes) -> Origin:
        number = made.get(path)
        return unknown if number is None else rows[number - 1]

    return origin_of


def steps_of(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the step that made each layer, by what the history of an image says of it.

    What lies below the first layer of ours is the base. A layer that several steps made has the names of all
    of them; of an image that we did not build no step is known.
    """
    ours = [row.get("created_by") == OURS for row in history]
    first = ours.index(True) if True in ours else None
    if first is None:
        return [""] * len(history)
    return [
        "base" if at < first else step_named(str(row.get("comment") or "")) for at, row in enumerate(history)
    ]


def step_named(comment: str) -> str:
    """Return the steps that a layer's comment names, with commas between them; empty for none."""
    found = []
    for title in comment.split("; "):
        for pattern, step in _TITLES:
            if match := pattern.fullmatch(title):
                name = match.groupdict().get("name")
                found.append(f"{step} {name}" if name else step or title)
                break
    return ", ".join(dict.fromkeys(found))


def is_ours(history: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a build of ours made an image, by its history."""
    return any(row.get("created_by") == OURS for row in history)
