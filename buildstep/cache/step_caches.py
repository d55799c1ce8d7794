"""Directories of commands that stay in a pool from one build to the next, and never ship.

    state/step-caches/NAME        the directory; NAME is made of the component, its platform and the path
    state/step-caches/NAME.json   its record: whose it is, and how much it holds
    state/step-caches/NAME.lock   held by the build whose command uses it
    state/work/BUILD-caches-N     of one build for the length of a command: with secrets, or with --no-cache

What is in one is the commands' own. Nothing of a build's decides or is decided by it: with another cache, or
none, a command is to make the same, only later.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from buildstep.cache import records
from buildstep.system.locks import Tell, lock
from buildstep.system.private import private_dir
from buildstep.system.remove import remove_tree

FORMAT = 1
FOLDER = "step-caches"


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheRecord:
    """Whose a directory is, and what it holds. used: when that was last so, in seconds since 1970."""

    component: str
    path: str
    size: int = 0
    inodes: int = 0
    used: float = 0.0


@contextlib.contextmanager
def opened(state: Path, component: str, path: str, owner: tuple[int, int], tell: Tell) -> Iterator[Path]:
    """Yield the directory of a component for a path in its image, for one command at a time.

    owner: who may write to it; a directory that was another's is emptied. tell: see `lock`.
    """
    folder = state / FOLDER
    private_dir(folder)
    place = folder / name_of(component, path)
    with lock(place.with_suffix(".lock"), tell=tell):
        found = place.lstat() if os.path.lexists(place) else None
        if found is not None and (not stat.S_ISDIR(found.st_mode) or (found.st_uid, found.st_gid) != owner):
            remove_tree(place)
            found = None
        if found is None:
            place.mkdir(mode=0o755)
            os.chown(place, *owner)
        place.chmod(0o755)
        try:
            yield place
        finally:
            size, inodes = measure(place)
            record = CacheRecord(component=component, path=path, size=size, inodes=inodes, used=time.time())
            records.save(place.with_suffix(".json"), record, FORMAT)


@contextlib.contextmanager
def apart(place: Path, area: Path) -> Iterator[Path]:
    """Yield a kept directory, moved into an area of the build's own for the length of a block.

    It goes with the area if the build is killed: nobody has looked then for what must not stay in it.
    """
    inside = area / place.name
    place.rename(inside)
    try:
        yield inside
    finally:
        inside.rename(place)


@contextlib.contextmanager
def fresh(area: Path, owner: tuple[int, int]) -> Iterator[Path]:
    """Yield an empty directory in an area, in place of one that is kept; it is removed at the end."""
    place = area / "empty"
    place.mkdir(mode=0o755)
    try:
        place.chmod(0o755)
        os.chown(place, *owner)
        yield place
    finally:
        remove_tree(place)


def name_of(component: str, path: str) -> str:
    """Return the name of a directory."""
    text = f"{component}\0{path}".encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()[:40]


def measure(folder: Path) -> tuple[int, int]:
    """Return the bytes and the number of what is in a directory."""
    size = inodes = 0
    for _, folders, names, fd in os.fwalk(folder, follow_symlinks=False):
        inodes += len(folders) + len(names)
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(name, dir_fd=fd, follow_symlinks=False).st_blocks * 512
    return size, inodes


def kept(state: Path) -> list[tuple[Path, CacheRecord]]:
    """Return every directory that is kept, with its record; one without is of a build that was killed."""
    found = []
    folder = state / FOLDER
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    for place in (folder / name for name in names if "." not in name):
        record = records.find(CacheRecord, place.with_suffix(".json"), FORMAT)
        if record is None:
            used = 0.0
            with contextlib.suppress(OSError):
                used = place.stat().st_mtime
            record = CacheRecord(component="", path="", inodes=1, used=used)
        found.append((place, record))
    return found


def remove(place: Path) -> None:
    """Remove a directory that nobody uses; whoever calls this has its lock."""
    remove_tree(place)
    place.with_suffix(".json").unlink(missing_ok=True)
