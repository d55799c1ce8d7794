"""The mark of an installed asset, and what is installed below a directory.

A version's directory gets its name in one step, with its mark in it: one that has a mark is complete. What
has none was made by something else, such as daybook.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from buildstep.assets.names import CURRENT, is_service, is_version

MARK: Final = ".buildstep-asset.json"

_FORMAT = 1
_LARGEST = 1 << 16
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """Of which asset a directory is. file: the asset's name; sha256, size: of the archive; etag, modified,
    store: by which the same object is known in a listing; entries, tree: number of paths and tree digest
    of what the archive holds; installed: seconds since the epoch; key: the fingerprint of the key that has
    signed it, empty where no signature was asked for."""

    file: str
    sha256: str
    size: int
    etag: str
    modified: float
    store: str
    entries: int
    tree: str
    installed: float
    key: str = ""

    def dumps(self) -> bytes:
        """Return what is in the file."""
        value = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"format": _FORMAT, **value}).encode() + b"\n"

    @classmethod
    def loads(cls, data: bytes) -> Self | None:
        """Return a mark; None for what is none, or is of a format that this version does not know."""
        try:
            value: dict[str, Any] = json.loads(data)
            if value.pop("format") != _FORMAT:
                return None
            mark = cls(**value)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        texts = (mark.file, mark.sha256, mark.etag, mark.store, mark.tree, mark.key)
        numbers = (mark.size, mark.modified, mark.entries, mark.installed)
        good = all(isinstance(it, str) for it in texts) and all(isinstance(it, int | float) for it in numbers)
        return mark if good else None


def read_mark(folder: str | Path) -> Mark | None:
    """Return the mark of a version's directory; None where there is none that can be read."""
    try:
        fd = os.open(os.path.join(folder, MARK), _OPEN)
    except OSError:
        return None
    with os.fdopen(fd, "rb", buffering=0) as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with contextlib.suppress(OSError):
            return Mark.loads(stream.read(_LARGEST))
    return None


def versions(install: Path, service: str) -> dict[str, Mark | None]:
    """Return the versions of a service that have a directory, each with its mark, None: without one."""
    top = os.path.join(install, service)
    return {
        name: read_mark(os.path.join(top, name)) for name in _folders(top) if is_version(name, hyphens=True)
    }


def services(install: Path) -> list[str]:
    """Return the names of directories that can be services', sorted. Raises OSError."""
    return sorted(name for name in _folders(os.fspath(install)) if is_service(name))


def installed(install: Path, names: Iterable[str] | None = None) -> dict[str, dict[str, Mark | None]]:
    """Return what is installed of some services, None: of all, as `versions` does for each.

    A service of which nothing is there is left out. Raises OSError.
    """
    wanted = services(install) if names is None else names
    found = ((service, versions(install, service)) for service in wanted)
    return {service: there for service, there in found if there}


def current(install: Path, service: str) -> str:
    """Return the version that the link `current` of a service names; empty for none."""
    try:
        target = os.readlink(install / service / CURRENT)
    except OSError:
        return ""
    return target if is_version(target, hyphens=True) else ""


def _folders(path: str) -> Iterator[str]:
    """Yield the names of the directories in one, links left out; nothing if there is no such directory."""
    try:
        entries = os.scandir(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.name
