"""What a hook changed in its stage: found by ctimes, which no program can set back, and by what is gone."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from buildstep.components.interface import Component, GraphError
from buildstep.tree import scan
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry
from buildstep.tree.hashing import hash_entries

_TICK = 0.0115
"""Seconds: more than the kernel takes from one time of a file to the next (a jiffy, 10 ms at most)."""


class Before(NamedTuple):
    """What a directory held before a hook ran: modes by path. since: a time (ns); what changed then or later
    the hook did."""

    modes: dict[bytes, int]
    since: int


def look(folder: Path) -> Before:
    """Return what a directory holds: of a stage that is an overlay, its upper directory."""
    modes = {path: info.st_mode for path, _, info in scan.walk(os.fsencode(folder))}
    since = time.time_ns() + 1
    # Times of files are coarser than the clock: what is written from now on must have a later one.
    time.sleep(_TICK)
    return Before(modes, since)


def in_copy(folder: Path, before: Before) -> Changes:
    """Return what changed in a stage that is a copy, files with their digests. A directory counts where its
    mode did change. Raises GraphError for what cannot be kept."""
    seen: set[bytes] = set()
    entries: list[Entry] = []
    for path, full, info in scan.walk(os.fsencode(folder)):
        seen.add(path)
        if not _is_old(path, info, before):
            entries.append(scan.entry_of(path, full, info))
    return _checked(folder, entries, before.modes.keys() - seen)


def in_overlay(upper: Path, component: Component, before: Before) -> Changes:
    """Return the same of a stage that is an overlay over the component, by its upper directory alone."""
    lower = os.fsencode(component.path)
    entries: list[Entry] = []
    seen: set[bytes] = set()
    whiteouts: set[bytes] = set()
    known = {path for path, mode in before.modes.items() if not stat.S_ISCHR(mode)}
    for path, full, info in scan.walk(os.fsencode(upper)):
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            if before.modes.get(path) != info.st_mode:
                whiteouts.add(path)
            continue
        seen.add(path)
        if _is_old(path, info, before):
            continue
        if stat.S_ISDIR(info.st_mode) and path not in before.modes:
            if _is_opaque(full):
                known |= _own_below(component, path)
            if _has_directory(lower + b"/" + path, info.st_mode):
                continue  # it is in the upper one because something in it changed
        entries.append(scan.entry_of(path, full, info))
    return _checked(upper, entries, whiteouts | (known - seen))


def _is_old(path: bytes, info: os.stat_result, before: Before) -> bool:
    mode = before.modes.get(path)
    return mode == info.st_mode and (info.st_ctime_ns < before.since or stat.S_ISDIR(mode))


def _is_opaque(full: bytes) -> bool:
    """Return whether a directory hides all that is in the one below it (kernel: filesystems/overlayfs)."""
    try:
        return os.getxattr(full, "trusted.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError:
        return False


def _has_directory(full: bytes, mode: int) -> bool:
    try:
        return os.lstat(full).st_mode == mode
    except OSError:
        return False


def _own_below(component: Component, folder: bytes) -> set[bytes]:
    """Return all own paths of a component that are below a directory, directories too."""
    found: set[bytes] = set()
    for name in map(os.fsencode, component.files):
        while name.startswith(folder + b"/") and name not in found:
            found.add(name)
            name = name.rpartition(b"/")[0]  # noqa: PLW2901 - up to the directory
    return found


def _checked(folder: Path, entries: list[Entry], gone: Iterable[bytes]) -> Changes:
    for entry in entries:
        if entry.kind not in "fdl":
            name = os.fsdecode(entry.path)
            raise GraphError(f"{name} is no file, directory or link, and cannot be kept")
    hash_entries(folder, entries)
    missing = set(gone)
    removed = sorted(path for path in missing if path.rpartition(b"/")[0] not in missing)
    return Changes(tuple(sorted(entries, key=lambda entry: entry.path)), tuple(removed))
