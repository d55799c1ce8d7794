"""Cut a large layer into several, at places that do not move."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from buildstep.tree.diff import Changes
from buildstep.tree.entry import FileList

LAYER_TARGET = 32 << 20
"""Bytes that one layer of a large tree holds on average; a tree of less than twice that is one layer."""

_PER_FILE = 2048
"""What a file costs beside its content, in bytes of work."""


def segments(changes: Changes) -> list[Changes]:
    """A layer cut into several where it is large: what is removed, files, and at last the directories. One
    for all where it is not. Directories are alone because their times move with whatever happens in them.
    """
    entries = changes.entries
    leaders = {entry.first for entry in entries if entry.first}
    places = {entry.path: number for number, entry in enumerate(entries) if entry.path in leaders}
    parts = cut(
        [entry.path for entry in entries],
        [-1 if entry.kind == "d" else entry.size if not entry.first else 0 for entry in entries],
        {number: places[entry.first] for number, entry in enumerate(entries) if entry.first in places},
    )
    if not parts:
        return [changes]
    removed = [Changes((), changes.removed)] if changes.removed else []
    files = [Changes(tuple(entries[number] for number in part), ()) for part in parts]
    folders = tuple(entry for entry in entries if entry.kind == "d")
    return [*removed, *files, Changes(folders, ())]


def cut(paths: Sequence[bytes], sizes: Sequence[int], followers: Mapping[int, int]) -> list[list[int]]:
    """The files of a large layer in groups, as places in `paths`; none where it is not large.

    sizes: in bytes, -1 of a directory, which is in no group; followers: of later members of hard-link groups
    the first, with whom they stay. A cut comes before a path whose name's hash says so, in proportion to
    what was added since: the same paths are cut in nearly the same places whatever changed elsewhere.
    """
    total = sum(sizes) + len(sizes) * _PER_FILE
    if total < 2 * LAYER_TARGET:
        return []
    # Powers of two: growing a little does not move every cut.
    target = LAYER_TARGET
    while total > 40 * target:
        target *= 2
    scale, least, most = 0xFFFFFFFF / target, target // 4, 3 * target
    part: list[int] = []
    parts = [part]
    leaders = set(followers.values())
    where: dict[int, list[int]] = {}
    have = 0
    for number, size in enumerate(sizes):
        if size < 0:
            continue
        if number in followers and followers[number] in where:
            where[followers[number]].append(number)
            continue
        weight = size + _PER_FILE
        if have and (have + weight > most or (have > least and zlib.crc32(paths[number]) < weight * scale)):
            part = []
            parts.append(part)
            have = 0
        part.append(number)
        if number in leaders:
            where[number] = part
        have += weight
    return parts


def timeless(tree: FileList) -> FileList:
    """The directories of a tree without their times, for layers that repeat them above their files."""
    return {path: replace(entry, mtime=0) for path, entry in tree.items() if entry.kind == "d"}
