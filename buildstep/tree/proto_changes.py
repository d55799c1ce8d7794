"""What changed in a proto directory since its index was written, path by path, in words."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping

from buildstep.system.text import plural
from buildstep.tree.entry import Entry
from buildstep.tree.proto import ProtoDir
from buildstep.tree.stat_index import KnownEntry, known_entry, seen_line
from buildstep.tree.stat_lines import Seen, parse

_MOST_SHOWN = 200
"""How many changed paths are shown."""


def explain(proto: ProtoDir) -> list[tuple[str, str]]:
    """Return the changed paths and what differs from the index, as far as files have been read.

    A path that went and one of the same inode and content that came are a rename; what is in a renamed
    directory went with it. A directory is left out when only its time changed, because of a change in it.
    """
    if proto.doubt:
        return [("", proto.doubt)]
    if not proto.changed:
        return []
    if proto.explained is None or proto.explained[0] != proto.unread:
        proto.explained = (proto.unread, _explained(proto))
    return proto.explained[1]


def _explained(proto: ProtoDir) -> list[tuple[str, str]]:
    known, entries = proto.known.paths, proto.fresh_entries
    now = proto.fresh
    before = {
        path: known_entry(known[path]).before()
        for path in [*proto.gone, *(path for path in now if path in known)]
    }
    told = _times_only(proto)
    came = {path: seen for path, seen in now.items() if path not in known}
    went = {path: before[path][0] for path in proto.gone}
    renamed = _renamed(proto, came, went)
    for new, old_path in renamed.items():
        parent, old_parent = new.rpartition(b"/")[0], old_path.rpartition(b"/")[0]
        same_name = new.rpartition(b"/")[2] == old_path.rpartition(b"/")[2]
        if not (same_name and renamed.get(parent) == old_parent and parent):
            told[new] = f"renamed from {os.fsdecode(old_path)}"
    moved = set(renamed.values())
    for path in went.keys() - moved:
        told[path] = "excluded" if proto.exclude and _excluded(proto, path, went[path]) else "removed"
    links = _by_inode({path: seen.inode for path, seen in came.items() if path not in renamed})
    unlinked = _by_inode({path: went[path].inode for path in went.keys() - moved})
    for path, seen in now.items():
        if path in renamed:
            continue
        if path not in known:
            others = [other for other in _mates(proto, path) if other in known or other < path]
            told[path] = f"added, a hard link to {os.fsdecode(others[0])}" if others else "added"
            continue
        old, trusted = before[path]
        if text := _differs(old, known_entry(known[path]), seen, entries[path]):
            told[path] = text
        elif seen.inode in links or (seen.inode in unlinked and old.kind == "f"):
            way, other = ("added", links) if seen.inode in links else ("removed", unlinked)
            told[path] = f"hard link {way} ({os.fsdecode(other[seen.inode])})"
        else:
            told[path] = _touched(old, seen, trusted=trusted)
    consequences = {path.rpartition(b"/")[0] for path in {*came, *went}}
    kept = {
        path: text
        for path, text in told.items()
        if not (path in known and known_entry(known[path]).kind == "d" and path in consequences)
        or not text.startswith(("touched", "time"))
    }
    # What matters first, so that a few lines tell it.
    order = sorted(kept, key=lambda path: (kept[path].startswith(("touched", "time")), path))
    shown = [(os.fsdecode(path), kept[path]) for path in order[:_MOST_SHOWN]]
    return [("", checkout_text(proto)), *shown] if proto.checkout else shown


def checkout_text(proto: ProtoDir) -> str:
    """Say how a fresh checkout was recognised."""
    again = proto.again
    how = [f"{plural(again.files, 'file')} read"] if again.files else []
    if again.by_git:
        how.insert(0, f"git's index vouches for {plural(again.by_git, 'file')}")
    if proto.git is not None and proto.git.why_not:
        how.append(f"git is not relied on: {proto.git.why_not}")
    what = "same content" if proto.same else f"{plural(len(again.same), 'path')} as before"
    return f"fresh checkout, {what} ({', '.join(how or ['known of another one'])})"


def _times_only(proto: ProtoDir) -> dict[bytes, str]:
    """Say what paths have another inode or time, and are the same otherwise; not of a fresh checkout."""
    told: dict[bytes, str] = {}
    for path in () if proto.checkout else itertools.islice(sorted(proto.again.same), _MOST_SHOWN):
        old, trusted = known_entry(proto.known.paths[path]).before()
        told[path] = _touched(old, parse(seen_line(proto.valid[path])), trusted=trusted)
    return told


def _renamed(proto: ProtoDir, came: Mapping[bytes, Seen], went: Mapping[bytes, Seen]) -> dict[bytes, bytes]:
    """New path to old, by inode, kind, and for a file size and content as well."""
    before = {(old.inode, old.kind): path for path, old in went.items()}
    entries = proto.fresh_entries
    found = {}
    for path, seen in came.items():
        entry = entries[path]
        old_path = before.get((seen.inode, seen.kind))
        if old_path is None or path in proto.inodes:
            continue
        sha256 = known_entry(proto.known.paths[old_path]).sha256
        same = went[old_path].size == seen.size and (not entry.sha256 or entry.sha256 == sha256)
        if entry.kind == "f" and not same:
            continue
        found[path] = old_path
    return found


def _excluded(proto: ProtoDir, path: bytes, old: Seen) -> bool:
    """Whether a path is excluded now, itself or by a directory above it."""
    assert proto.exclude is not None
    parts = path.split(b"/")
    above = (b"/".join(parts[:depth]) for depth in range(1, len(parts)))
    return proto.exclude(path, old.kind == "d") or any(proto.exclude(folder, True) for folder in above)


def _by_inode(paths: Mapping[bytes, int]) -> dict[int, bytes]:
    return {inode: path for path, inode in sorted(paths.items(), reverse=True)}


def _mates(proto: ProtoDir, path: bytes) -> list[bytes]:
    """The other names of a hard link, in order."""
    if path not in proto.inodes:
        return []
    inode = proto.inodes[path]
    return sorted(other for other, of in proto.inodes.items() if of == inode and other != path)


def _differs(before: Seen, known: KnownEntry, now: Seen, entry: Entry) -> str:
    """One short sentence for what is not as it was, times aside."""
    if before.kind != now.kind:
        return f"type {before.kind} -> {now.kind}"
    found = []
    if before.mode != now.mode and now.kind != "l":
        found.append(f"mode {before.mode:04o} -> {now.mode:04o}")
    if (before.uid, before.gid) != (now.uid, now.gid):
        found.append(f"owner {before.uid}:{before.gid} -> {now.uid}:{now.gid}")
    if known.target != entry.target:
        found.append(f"target {os.fsdecode(known.target)} -> {os.fsdecode(entry.target)}")
    if known.rdev != entry.rdev:
        found.append(f"device {known.rdev[0]}:{known.rdev[1]} -> {entry.rdev[0]}:{entry.rdev[1]}")
    if known.xattrs != entry.xattrs:
        names = {key for key, _ in {*known.xattrs} ^ {*entry.xattrs}}
        found.append(f"attribute {', '.join(sorted(map(os.fsdecode, names)))}")
    if now.kind == "f" and entry.sha256 and known.sha256 != entry.sha256:
        found.append(f"content ({before.size} -> {now.size} bytes)")
    elif now.kind == "f" and before.size != now.size:
        found.append(f"size {before.size} -> {now.size}")
    elif now.kind == "f" and not entry.sha256 and not entry.first and not found:
        found.append("touched; its content has to be read")
    return ", ".join(found)


def _touched(before: Seen, now: Seen, *, trusted: bool) -> str:
    if not trusted and before[:3] == now[:3]:
        return "touched: too young at the last build to be trusted, the same now"
    return "touched, the same otherwise" if before.mtime == now.mtime else "time, the same otherwise"
