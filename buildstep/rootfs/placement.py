"""Where each path of a proto directory goes in the image."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from buildstep.rootfs.modes import ModeRule, acl_changed
from buildstep.rootfs.owners import OwnerRule, own_owner
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


Kinds = Callable[[bytes], str]
"""The kind of what a proto directory has at a path; empty where it has nothing."""


def find_placements(kind: Kinds, base: FileList) -> list[Placement]:
    """Return where the directories of a proto directory go: the top, then those behind a link of the root.

    kind: of the proto directory's paths; base: what is in the root. Nothing is looked up on the disk.
    """
    links = [path for path, entry in base.items() if entry.kind == "l"]
    found = [Placement("", "")]
    _find_below(kind, base, links, found[0], found)
    return sorted(found, key=lambda placement: placement.source.split("/") if placement.source else [])


def _find_below(
    kind: Kinds, base: FileList, links: Sequence[bytes], outer: Placement, found: list[Placement]
) -> None:
    """Add the placements whose link is in the directory that another placement leads to."""
    source, target = os.fsencode(outer.source), os.fsencode(outer.target)
    for link in links:
        if target and not link.startswith(target + b"/"):
            continue
        below = (source + b"/" + link[len(target) :].lstrip(b"/")).lstrip(b"/")
        if kind(below) != "d":
            continue
        real = _where(link, base)
        if real == b"" or (real is not None and base[real].kind == "d"):
            inner = Placement(os.fsdecode(below), os.fsdecode(real))
            found.append(inner)
            _find_below(kind, base, links, inner, found)


def _where(path: bytes, base: FileList) -> bytes | None:
    """Return where a path leads, links followed inside the root as the kernel does; None if to nothing."""
    todo, followed = path.split(b"/"), 0
    here: list[bytes] = []
    while todo:
        name = todo.pop(0)
        if name in (b"", b"."):
            continue
        if name == b"..":
            del here[-1:]  # above the root is the root
            continue
        entry = base.get(b"/".join([*here, name]))
        if entry is None or (todo and entry.kind not in "dl"):
            return None
        if entry.kind != "l":
            here.append(name)
            continue
        followed += 1
        if followed > _MOST_LINKS:
            return None
        if entry.target.startswith(b"/"):
            here = []
        todo = entry.target.split(b"/") + todo
    return b"/".join(here)


_MOST_LINKS = 40  # as many as the kernel follows


def placement_of(path: str, placements: Sequence[Placement]) -> Placement:
    """Return the placement that decides where a path goes: the innermost, the last that covers it."""
    return next(found for found in reversed(placements) if found.covers(path))


def overlay(entries: FileList, placements: Sequence[Placement], rule: OwnerRule, modes: ModeRule) -> FileList:
    """Return the proto directory's entries with the paths, owners and modes that they get in the image.

    The result is what `copy_proto.copy` leaves in a tree, without copying anything. Directories that the base
    has behind a link (all placements but the first) keep what the proto says of them. Changes the entries.
    """
    single = rule.rules[0][1] if rule.uniform else None
    for path, entry in entries.items():
        ids = single if rule.uniform else rule.of(os.fsdecode(path))
        entry.uid, entry.gid = own_owner(entry.uid, entry.gid) if ids is None else ids
        entry.text = b""
    if modes:
        entries = _with_modes(entries, modes)
    found = _placed(entries, placements) if len(placements) > 1 else dict(entries)
    for path, entry in list(found.items()):
        if entry.first:  # a hard-link group has one owner: its first member decides
            first = found[entry.first]
            entry.uid, entry.gid, entry.mode = first.uid, first.gid, first.mode
            if entry.xattrs != first.xattrs:
                found[path] = replace(entry, xattrs=first.xattrs)
    return found


def _with_modes(entries: FileList, modes: ModeRule) -> FileList:
    """Return the entries with their modes. One with an ACL is another entry then: its attributes are known
    to the index as they are in the proto directory."""
    found = dict(entries)
    for path, entry in entries.items():
        mode = modes.of(os.fsdecode(path), entry.mode, entry.kind)
        if mode != entry.mode:
            xattrs = acl_changed(entry.xattrs, mode)
            if xattrs == entry.xattrs:
                entry.mode = mode
            else:
                found[path] = replace(entry, mode=mode, xattrs=xattrs)
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
