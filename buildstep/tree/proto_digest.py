"""The digest of a proto directory, made of those of the directories in it: most are known already."""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from buildstep.tree.stat_index import known_entry

if TYPE_CHECKING:
    from buildstep.tree.proto import ProtoDir


def note_name(owners: bool, epoch: int | None, timed: bool) -> str:
    """Return under which name a digest is kept."""
    return f"digest {owners} {epoch if timed else 'untimed'}"


Digests = tuple[str, dict[bytes, bytes]]
"""The digest of a proto directory, and those of the directories in it that it is made of."""


def digest(
    proto: ProtoDir, before: Digests | None, *, owners: bool, epoch: int | None, timed: bool
) -> Digests:
    """Compute the digest; see `ProtoDir.digest`. before: that of the index; digests of unchanged directories
    are taken from it."""
    limit = None if epoch is None else epoch * 1_000_000_000
    folders, done = _folders(proto, before, limit, timed=timed)
    facts = _facts(proto, owners=owners, limit=limit, timed=timed)
    for folder, paths in folders.items():
        if paths:
            # Version 2: equal values, equal bytes.
            data = marshal.dumps([facts(path) for path in sorted(paths)], 2)
            done[folder] = hashlib.sha256(data).digest()
    return hashlib.sha256(marshal.dumps(sorted(done.items()), 2)).hexdigest(), done


def _folders(
    proto: ProtoDir, before: Digests | None, limit: int | None, *, timed: bool
) -> tuple[dict[bytes, list[bytes]], dict[bytes, bytes]]:
    """Return the paths in each directory whose digest has to be computed, and the digests of the others."""
    folders: dict[bytes, list[bytes]] = {}
    if before is not None and not proto.doubt and proto.excludes == proto.known.excludes:
        others = other_times(proto, limit) if timed else ()
        folders = {path.rpartition(b"/")[0]: [] for path in (*proto.fresh, *proto.gone, *others)}
        if not folders:
            return {}, dict(before[1])
        for path in proto.paths:
            if (rows := folders.get(path.rpartition(b"/")[0])) is not None:
                rows.append(path)
        return folders, {folder: value for folder, value in before[1].items() if folder not in folders}
    for path in proto.paths:
        folders.setdefault(path.rpartition(b"/")[0], []).append(path)
    return folders, {}


def other_times(proto: ProtoDir, limit: int | None) -> list[bytes]:
    """Return the paths of which nothing but the time is another now. limit: the latest that counts (ns)."""
    known = proto.known.paths
    most = float("inf") if limit is None else limit
    return [path for path, row in proto.again.same.items() if min(row[7], most) != min(known[path][7], most)]


def _facts(
    proto: ProtoDir, *, owners: bool, limit: int | None, timed: bool
) -> Callable[[bytes], tuple[Any, ...]]:
    """Return a function that gives what of a path can matter to an image. limit: the latest time (ns); timed:
    whether times do."""
    entries, valid, fresh, inodes = proto.fresh_entries, proto.valid, proto.fresh, proto.inodes
    leaders: dict[tuple[int, int], bytes] = {}
    hashes: dict[bytes, str] = {}
    for path in sorted(inodes):
        first = leaders.setdefault(inodes[path], path)
        known = entries[path].sha256 if path in entries else known_entry(valid[path]).sha256
        hashes.setdefault(first, known)

    def facts(path: bytes) -> tuple[Any, ...]:
        old = valid.get(path)
        if old is not None:
            _, _, kind, mode, uid, gid, _, mtime, sha256, target, rdev, xattrs, _, _ = old
        else:
            entry, seen = entries[path], fresh[path]
            kind, mode, uid, gid, mtime = seen.kind, seen.mode, seen.uid, seen.gid, seen.mtime
            sha256, target, rdev, xattrs = entry.sha256, entry.target, entry.rdev, entry.xattrs
        first = b""
        if path in inodes:
            first = leaders[inodes[path]]
            sha256 = hashes[first]
        assert sha256 or kind != "f", path
        if not timed:
            mtime = 0
        elif limit is not None and mtime > limit:
            mtime = limit
        if kind == "l":
            mode = 0
        return path, kind, mode, (uid, gid) if owners else None, sha256, target, rdev, xattrs, first, mtime

    return facts
