"""Compare two file lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from buildstep.tree.entry import Entry, FileList


class Brought(NamedTuple):
    """What a layer brings: paths that are no directories, the bytes of its files (each hard-linked one once),
    and how many paths it removes, topmost only."""

    files: int
    bytes: int
    removed: int


@dataclass(frozen=True, slots=True)
class Changes:
    """A layer: what to apply to a base to get a tree. Both sorted by path; `removed` is topmost only."""

    entries: tuple[Entry, ...]
    removed: tuple[bytes, ...]

    def brought(self) -> Brought:
        """Count what is in it."""
        sizes = [
            0 if entry.first or entry.kind != "f" else entry.size
            for entry in self.entries
            if entry.kind != "d"
        ]
        return Brought(len(sizes), sum(sizes), len(self.removed))


def diff(base: FileList, tree: FileList) -> Changes:
    """Return what differs, times aside. Files of `tree` that equal the base in metadata must be hashed.

    A hard-link group is written as a whole when any member of it changed, so that a layer needs no other.
    """
    changed = {path for path, entry in tree.items() if path not in base or not _equal(base[path], entry)}
    groups: dict[bytes, list[bytes]] = {}
    for path, entry in tree.items():
        if entry.first:
            groups.setdefault(entry.first, []).append(path)
    for leader, members in groups.items():
        if changed.intersection([leader, *members]):
            changed.update([leader, *members])
    gone = sorted(path for path in base if path not in tree)
    removed: list[bytes] = []
    for path in gone:
        parent = path.rpartition(b"/")[0]
        # A file that took a directory's place removes what was below it; so does a removed parent.
        over = tree.get(parent)
        if (over is None and parent in base) or (over is not None and over.kind != "d"):
            continue
        removed.append(path)
    return Changes(tuple(tree[path] for path in sorted(changed)), tuple(removed))


def _equal(old: Entry, new: Entry) -> bool:
    if not old.same_metadata(new):
        return False
    return new.kind != "f" or old.sha256 == new.sha256


def differing(one: FileList, other: FileList) -> list[bytes]:
    """Return the paths, sorted, that are in one of two lists alone, or not the same in both but for times."""
    return sorted(
        path
        for path in {*one, *other}
        if path not in one
        or path not in other
        or not one[path].same_metadata(other[path])
        or one[path].sha256 != other[path].sha256
    )
