"""Cut a large layer into several, at places that an edit does not move."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from buildstep.tree.diff import Changes
from buildstep.tree.entry import FileList

LAYER_TARGET = 32 << 20
"""Bytes that one layer of a large tree holds on average; a tree of less than twice that is one layer."""

_PER_FILE = 2048
"""The work for a file beside its content, in bytes that take as long."""


def segments(changes: Changes) -> list[Changes]:
    """Cut a large layer into several: what is removed, then files, and last the directories.

    Directories are apart because their times change with everything that happens in them. A small layer is
    returned as it is.
    """
    entries = changes.entries
    firsts = {entry.first for entry in entries if entry.first}
    places = {entry.path: number for number, entry in enumerate(entries) if entry.path in firsts}
    parts = cut(
        [entry.path for entry in entries],
        [-1 if entry.kind == "d" else entry.size if not entry.first else 0 for entry in entries],
        {number: places[entry.first] for number, entry in enumerate(entries) if entry.first in places},
    )
    if not parts:
        return [changes]
    removed = [Changes((), changes.removed)] if changes.removed else []
    files = [Changes(tuple(entries[number] for number in part), ()) for part in parts]
    return [*removed, *files, Changes(tuple(entry for entry in entries if entry.kind == "d"), ())]


def cut(paths: Sequence[bytes], sizes: Sequence[int], hard_links: Mapping[int, int]) -> list[list[int]]:
    """Return the files of a large layer in groups, as indexes into `paths`; none for a layer that is small.

    sizes: in bytes, -1 for a directory, which is in no group. hard_links: of each later member of a hard-link
    group the first, with which it stays.
    A file as large as a group is one by itself, so that nothing else is read when it changes. These come
    first, as they take longest. Any other group ends before a path that a hash of the path chooses, with a
    chance in proportion to the file's size: the same paths are cut at nearly the same places whatever changed
    elsewhere.
    """
    total = sum(sizes) + len(sizes) * _PER_FILE
    if total < 2 * LAYER_TARGET:
        return []
    alone = _target(total)
    together = total - sum(size + _PER_FILE for size in sizes if size > alone)
    target = _target(together)
    scale, least, most = 0xFFFFFFFF / target, target // 4, 3 * target
    large: list[list[int]] = []
    part: list[int] = []
    parts = [part]
    firsts = set(hard_links.values())
    group_of: dict[int, list[int]] = {}
    have = 0
    for number, size in enumerate(sizes):
        if size < 0:
            continue
        if number in hard_links and hard_links[number] in group_of:
            group_of[hard_links[number]].append(number)
            continue
        weight = size + _PER_FILE
        group = part
        if size > alone:
            group = []
            large.append(group)
        elif have and (have + weight > most or (have > least and zlib.crc32(paths[number]) < weight * scale)):
            group = part = []
            parts.append(part)
            have = 0
        group.append(number)
        if number in firsts:
            group_of[number] = group
        if group is part:
            have += weight
    return [*large, *(part for part in parts if part)]


def _target(total: int) -> int:
    """Return the bytes that a layer holds on average where all together hold so many."""
    # Powers of two: a little more content does not move every cut.
    target = LAYER_TARGET
    while total > 40 * target:
        target *= 2
    return target


def timeless(tree: FileList) -> FileList:
    """Return the directories of a tree without their times, for layers that repeat them above their files."""
    return {path: replace(entry, mtime=0) for path, entry in tree.items() if entry.kind == "d"}
