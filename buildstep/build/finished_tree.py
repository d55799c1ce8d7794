"""A finished tree: all its entries, what differs from the layer below, and its digest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from buildstep.events import Bus
from buildstep.pool.interface import Dataset
from buildstep.system.root import Root
from buildstep.system.text import shown
from buildstep.tree.diff import Changes, diff
from buildstep.tree.entry import Entry, FileList, digest_of, lines_of
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import Owner, drop_below, heal_groups


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeFacts:
    """The digest of a finished tree, the canonical lines behind it, and the largest files that were added
    (path, bytes)."""

    digest: str
    lines: list[bytes]
    added: list[tuple[str, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A finished tree: all its entries, and the changes against the layer below.

    facts: called once every file is hashed; emitted: of the changes, what an emitter still has to write as
    the top layer; None for all of them.
    """

    entries: FileList
    changes: Changes
    facts: Callable[[], TreeFacts]
    emitted: tuple[Entry, ...] | None = None


def read_tree(
    dataset: Dataset,
    origin: FileList,
    below: FileList,
    *,
    bus: Bus,
    overlay: FileList | None = None,
    owner: Owner | None = None,
) -> Snapshot:
    """Read what a tree is now. Files are hashed only where that decides whether they changed.

    origin: the list of what the dataset was cloned from; below: of the layer under the one being made;
    overlay: entries that lie on top without being in the dataset; owner: gives the owner to record, where the
    file system cannot hold it.
    """
    entries = dataset.scan(origin, owner=owner)
    for path in _leave_out_sockets(entries, entries, below, bus):
        Root(dataset.path).remove("/" + os.fsdecode(path))
    if overlay:
        for path, entry in overlay.items():
            there = entries.get(path)
            if there is not None and there.kind == "d" and entry.kind != "d":
                drop_below(entries, path)
            entries[path] = entry
        heal_groups(entries, overlay)
        _leave_out_sockets(overlay, entries, below, bus)
    undecided = [
        entry
        for path, entry in entries.items()
        if entry.kind == "f"
        and not entry.sha256
        and not entry.first
        and path in below
        and below[path].same_metadata(entry)
    ]
    bus.count("bytes_hashed", hash_entries(dataset.path, undecided))
    spread_digests(entries)
    changes = diff(below, entries)
    # What did not change keeps the time it has below, as it will when the layers are put together.
    changed = {entry.path for entry in changes.entries}
    for path, old in below.items():
        if path in entries and path not in changed:
            entries[path] = old
    return Snapshot(entries=entries, changes=changes, facts=cache(lambda: _facts(entries, changes)))


def _leave_out_sockets(new: FileList, entries: FileList, below: FileList, bus: Bus) -> list[bytes]:
    """Take sockets out of a tree and return their paths: an archive has no place for them.

    Those of a base image that came as a stream stay: they are part of that. new: where to look.
    """
    found = []
    for path in [path for path, entry in new.items() if entry.kind == "s"]:
        old = below.get(path)
        if old is None or old.kind != "s":
            bus.note(f"{shown(path)} is a socket and is left out of the image")
            del entries[path]
            found.append(path)
    return found


def _facts(entries: FileList, changes: Changes) -> TreeFacts:
    lines = lines_of(entries)
    files = ((entry.path, entry.size) for entry in changes.entries if entry.kind == "f" and not entry.first)
    return TreeFacts(digest=digest_of(lines), lines=lines, added=largest(files))


def largest(files: Iterable[tuple[bytes, int]], limit: int = 2000) -> list[tuple[str, int]]:
    """Return the largest of some files (path, bytes), largest first, for reports."""
    rows = list(files)
    if len(rows) > limit:
        least = sorted(size for _, size in rows)[-limit]
        rows = [row for row in rows if row[1] >= least]
    rows.sort(key=lambda row: (-row[1], row[0]))
    return [("/" + os.fsdecode(path).encode(errors="replace").decode(), size) for path, size in rows[:limit]]
