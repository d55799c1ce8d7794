"""Where each path of a proto directory goes in the image."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from buildstep.rootfs.owners import OwnerRule, own_owner
from buildstep.system.root import Root
from buildstep.tree.entry import FileList
from buildstep.tree.scan import link_groups


@dataclass(frozen=True, slots=True)
class Placement:
    """A directory of the proto directory and where it goes: paths without a leading slash, "" for the top."""

    source: str
    target: str

    def covers(self, path: str) -> bool:
        """Return whether a path of the proto directory is this directory or below it."""
        return not self.source or f"{path}/".startswith(f"{self.source}/")

    def place(self, path: str) -> str:
        """Return where a path that this placement covers goes in the root."""
        return f"{self.target}/{path.removeprefix(self.source).lstrip('/')}".strip("/")


def find_placements(proto: Path, root: Root) -> list[Placement]:
    """Return where the directories of a proto directory go: the top, then those behind a link of the root."""
    found = [Placement("", "")]
    _find_below(proto, root, "", "", found)
    return found


def _find_below(proto: Path, root: Root, source: str, target: str, found: list[Placement]) -> None:
    with os.scandir(proto / source) as listing:
        folders = sorted(item.name for item in listing if item.is_dir(follow_symlinks=False))
    for name in folders:
        below, there = f"{source}/{name}".lstrip("/"), f"{target}/{name}".lstrip("/")
        info = root.lstat(there)
        if info is None:
            continue
        if stat.S_ISLNK(info.st_mode):
            real = root.real(there)
            if real is None or not root.is_dir(real):
                continue  # rsync puts the proto's directory in place of a link that leads nowhere
            there = real.lstrip("/")
            found.append(Placement(below, there))
        elif not stat.S_ISDIR(info.st_mode):
            continue
        _find_below(proto, root, below, there, found)


def placement_of(path: str, placements: Sequence[Placement]) -> Placement:
    """Return the placement that decides where a path goes: the innermost, the last that covers it."""
    return next(found for found in reversed(placements) if found.covers(path))


def overlay(entries: FileList, placements: Sequence[Placement], rule: OwnerRule) -> FileList:
    """Return the proto directory's entries with the paths and owners that they get in the image.

    The result is what `copy_proto.copy` leaves in a tree, without copying anything. Directories that the base
    has behind a link (all placements but the first) keep what the proto says of them. Changes the entries.
    """
    single = rule.rules[0][1] if rule.uniform else None
    for path, entry in entries.items():
        ids = single if rule.uniform else rule.of(os.fsdecode(path))
        entry.uid, entry.gid = own_owner(entry.uid, entry.gid) if ids is None else ids
        entry.text = b""
    found = _placed(entries, placements) if len(placements) > 1 else dict(entries)
    for entry in found.values():
        if entry.first:  # a hard-link group has one owner: its first member decides
            entry.uid, entry.gid = found[entry.first].uid, found[entry.first].gid
    return found


def _placed(entries: FileList, placements: Sequence[Placement]) -> FileList:
    """Return entries by where they go. Of two that go to one path, that of the later placement wins."""
    groups: dict[bytes, tuple[int, int]] = {}
    for entry in entries.values():
        if entry.first:
            groups[entry.path] = groups.setdefault(entry.first, (0, len(groups)))
    rows: dict[Placement, list[str]] = {placement: [] for placement in placements}
    for path in map(os.fsdecode, entries):
        rows[placement_of(path, placements)].append(path)
    found: FileList = {}
    inodes: dict[bytes, tuple[int, int]] = {}
    for placement, paths in rows.items():
        for name in paths:
            source = os.fsencode(name)
            entry = entries[source]
            entry.path = os.fsencode(placement.place(name))
            found[entry.path] = entry
            inodes.pop(entry.path, None)
            if source in groups:
                inodes[entry.path] = groups[source]
    link_groups(found, inodes)
    return found


def conflicts(entries: FileList, base: FileList) -> list[bytes]:
    """Return paths where the base has a directory with content and the proto has none: rsync refuses them."""
    clashing = [
        path
        for path, entry in entries.items()
        if entry.kind != "d" and path in base and base[path].kind == "d"
    ]
    return [path for path in clashing if any(other.startswith(path + b"/") for other in base)]
