"""Whether a proto directory is still what it was when the build looked at it.

What a build ships is the directory as it was at its walk. Files are read later, so at the end the directory
is walked again and compared by the same lines (see `stat_lines`). The ctime is in them: content of the same
size under a time that was set back is noticed as well. A directory is compared by what is in it and by its
owner and mode, not by its time: files that are left out may come and go.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

from buildstep.tree import entry, hashing, scan, stat_lines
from buildstep.tree.proto import ProtoDir, included
from buildstep.tree.stat_index import seen_line
from buildstep.tree.stat_lines import Seen

Differences = list[tuple[str, str]]
"""Paths, and what happened to each, sorted."""

_LARGE = 5000
"""Paths from which on a process of its own walks faster."""


@contextlib.contextmanager
def walking_again(proto: ProtoDir) -> Iterator[Callable[[], Differences]]:
    """Walk a proto directory again, beside whatever happens until what is yielded is called.

    That returns what differs from the walk before. Its entries must not have been dropped.
    """
    large = len(proto.valid) + len(proto.fresh) >= _LARGE
    unread: dict[bytes, OSError] = {}
    with stat_lines.listing(proto.top, large=large, unread=unread) as listing:

        def differences() -> Differences:
            before = {*map(seen_line, proto.valid.values()), *(seen.line for seen in proto.fresh.values())}
            try:
                lines = listing()
            except OSError as error:
                return [(os.fsdecode(proto.top), error.strerror or str(error))]
            if proto.exclude is not None:
                lines = included(lines, proto.exclude, before)
            if lost := stat_lines.among(lines, unread):
                return sorted((os.fsdecode(path), str(error.strerror)) for path, error in lost.items())
            if len(lines) == len(before) and before.issuperset(lines):
                return []
            now = set(lines)
            return _compare(proto, before - now, now - before)

        yield differences


def changed_paths(proto: ProtoDir, paths: Iterable[bytes]) -> Differences:
    """Return which of these paths differ from the walk: for who read no others."""
    before = {
        proto.fresh[path].line if path in proto.fresh else seen_line(proto.valid[path]) for path in paths
    }
    now = set()
    for path in paths:
        with contextlib.suppress(OSError):
            now.add(stat_lines.line(path, os.lstat(proto.top + b"/" + path)))
    return _compare(proto, before - now, now - before)


def _compare(proto: ProtoDir, before: set[bytes], now: set[bytes]) -> Differences:
    """Return what differs. before, now: the lines that only one of the walks has."""
    old = {stat_lines.path_of(line): stat_lines.parse(line) for line in before}
    new = {stat_lines.path_of(line): stat_lines.parse(line) for line in now}
    found = dict.fromkeys(old.keys() - new.keys(), "removed")
    found |= dict.fromkeys(new.keys() - old.keys(), "added")
    both = old.keys() & new.keys()
    found |= {path: "changed" for path in both if _changed(proto, path, old[path], new[path])}
    return sorted((os.fsdecode(path), what) for path, what in found.items())


def _changed(proto: ProtoDir, path: bytes, old: Seen, new: Seen) -> bool:
    if (old.kind, old.inode, old.mode, old.uid, old.gid) != (new.kind, new.inode, new.mode, new.uid, new.gid):
        return True
    if old.kind == "d":
        return False
    if (old.size, old.mtime) != (new.size, new.mtime):
        return True
    # Only the ctime, or the number of links: another name that it was given elsewhere is no change of it.
    # That takes a digest from before the build: one of a file that was read later says nothing.
    known = proto.entries.get(path) if path in proto.valid or proto.read_first else None
    full = proto.top + b"/" + path
    if known is None or (old.kind == "f" and not known.sha256):
        return True
    again = entry.Entry(path, old.kind, new.mode, new.uid, new.gid, new.size, source=full)
    try:
        scan.complete(again, full)
        hashing.hash_entries(b"", [again])
    except OSError:
        return True
    same = (known.target, known.rdev, known.xattrs) == (again.target, again.rdev, again.xattrs)
    return not same or (old.kind == "f" and known.sha256 != again.sha256)
