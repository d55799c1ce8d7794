"""What a proto directory holds, read once: a stat index makes an unchanged file cost one lstat.

The index of a proto directory keeps, for each path, the inode, size, mtime and ctime it had when its content
was last read. While all four are the same, so are content, mode, owner, links and attributes: any change of
them moves the ctime, which nobody can set. An entry whose ctime is not clearly older than the moment the
index was begun is not kept: it could change again within the same tick of the clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import operator
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.filelist import Entry, FileList, entry_of, hash_entries, link_groups, spread_digests
from buildstep.fsutil import atomic_write, lock

FORMAT = 2

_GRAIN_NS = 20_000_000
"""No kernel clock that stamps files is coarser than this."""

Exclude = Callable[[bytes, bool], bool]
"""Whether a path (relative, and whether it is a directory) stays out."""


# -- exclude patterns -------------------------------------------------------------------------------------


def keep_all(_path: bytes, _directory: bool) -> bool:
    """Nothing stays out."""
    return False


def excluder(patterns: Sequence[str]) -> Exclude | None:
    """rsync's exclude patterns as a function; None when one uses more of their language than we know.

    Known: a leading slash (anchored at the top), a trailing slash (directories only), `*`, `**`, `?` and
    bracket sets. A pattern with a slash or `**` inside is matched against the end of the path, any other
    against the last name. Source of the rules: rsync(1), "pattern matching rules".
    """
    rules: list[tuple[re.Pattern[bytes], bool, bool]] = []
    for pattern in patterns:
        only_dirs = pattern.endswith("/")
        body = pattern.removesuffix("/")
        anchored = body.startswith("/")
        inner = body[1:] if anchored else body
        if not inner or _UNKNOWN.search(pattern) or inner.startswith("/") or inner.endswith("/"):
            return None
        whole = anchored or "/" in body or "**" in body
        text = _translate(inner)
        if text is None:
            return None
        if not whole:
            expression = text
        elif anchored:
            expression = b"/" + text
        elif inner.startswith("**"):
            # rsync puts a slash before the path for these: `**/x` is at the top as well.
            expression = b"/?" + text
        else:
            expression = b"(?:.*/)" + text
        try:
            rules.append((re.compile(expression, re.DOTALL), whole, only_dirs))
        except re.error:
            return None

    def excluded(path: bytes, directory: bool) -> bool:
        name = path.rpartition(b"/")[2]
        return any(
            (directory or not only_dirs) and rule.fullmatch(b"/" + path if whole else name) is not None
            for rule, whole, only_dirs in rules
        )

    return excluded


_UNKNOWN = re.compile(r"^[+-] |^!|\*\*\*|\\|\[:|//")
"""Signs, `***`, escapes, classes of characters, and what rsync itself reads in more than one way."""


def _translate(body: str) -> bytes | None:
    out = b""
    at = 0
    while at < len(body):
        char = body[at]
        if body.startswith("**", at):
            out += b".*"
            at += 2
            continue
        if char == "*":
            out += b"[^/]*"
        elif char == "?":
            out += b"[^/]"
        elif char == "[":
            end = body.find("]", at + 2)
            if end < 0:
                return None
            members = _members(body[at + 1 : end])
            if members is None:
                return None
            out += members
            at = end
        else:
            out += re.escape(os.fsencode(char))
        at += 1
    return out


def _members(inner: str) -> bytes | None:
    """A bracket set; it never matches a slash. None for one that is not plain."""
    negated = inner[0] in "!^"
    body = inner[1:] if negated else inner
    if not re.fullmatch(r"(?:[A-Za-z0-9_.,+~@=]-[A-Za-z0-9_.,+~@=]|[A-Za-z0-9_.,+~@=])+", body):
        return None
    return b"(?!/)[" + (b"^" if negated else b"") + body.encode() + b"]"


# -- the index ---------------------------------------------------------------------------------------------

_Known = tuple[Any, ...]
"""inode, size, mtime, ctime; then kind, mode, uid, gid, sha256, target, device, xattrs. A ctime of -1 is
one that nothing has: the entry was too young to be trusted, and only tells what there was."""

_UNTRUSTED = -1

_Row = tuple[bytes, bytes, os.stat_result, _Known | None]
"""A path in the proto, on the agent, what lstat says, and its index entry if that holds."""


@dataclass(frozen=True, slots=True)
class Known:
    """What an index holds. noted: what a build wrote beside it; begun: when the walk began that it is of,
    in ns; end, whole: bytes of its good frames, and of the first of them."""

    paths: Mapping[bytes, _Known] = field(default_factory=dict)
    noted: Mapping[str, Any] = field(default_factory=dict)
    begun: int = 0
    end: int = 0
    whole: int = 0


@dataclass(slots=True)
class ProtoScan:
    """A proto directory as it is.

    unread: how many files have to be read; unread_size: their bytes; files, size: how many there are and
    their bytes; unchanged: every entry of the index holds and none is missing; noted: what the last build
    wrote beside the index, if nothing changed since; begun: when the walk began, in ns; known: the index;
    doubt: why the index was not trusted; read: bytes that `read_few` read.
    """

    rows: list[_Row]
    inodes: dict[bytes, tuple[int, int]]
    begun: int
    unread: int = 0
    unread_size: int = 0
    files: int = 0
    size: int = 0
    unchanged: bool = False
    noted: dict[str, Any] = field(default_factory=dict)
    known: Known = field(default_factory=Known)
    doubt: str = ""
    read: int = 0
    exclude: Exclude | None = None
    told: tuple[int, list[tuple[str, str]]] | None = None
    _entries: FileList | None = None

    @property
    def entries(self) -> FileList:
        """By path in the proto, each with its `source`; hashed where the index holds. Made on first use.

        Whoever lays them on a root may change their paths and owners; `digest` and `explain` do not
        look at those.
        """
        if self._entries is None:
            found = {path: _entry(path, full, info, old) for path, full, info, old in self.rows}
            if self.inodes:
                link_groups(found, self.inodes)
            self._entries = found
        return self._entries

    @property
    def changed(self) -> bool:
        """Whether there was an index, and something is not as it says."""
        return bool(self.known.paths) and not self.unchanged


def _entry(path: bytes, full: bytes, info: os.stat_result, old: _Known | None) -> Entry:
    if old is None:
        entry = entry_of(path, full, info)
        entry.source = full
        return entry
    kind = old[4]
    return Entry(
        path, kind, old[5], old[6], old[7], info.st_size if kind == "f" else 0, old[8], old[9], old[10],
        old[11], b"", info.st_mtime_ns, full,
    )  # fmt: skip


class StatIndex:
    """The index of one proto directory, in a pool's state."""

    def __init__(self, state: Path, proto: Path) -> None:
        name = hashlib.sha256(os.fsencode(os.path.realpath(proto))).hexdigest()[:32]
        self.path = state / "index" / f"{name}.idx"

    def load(self) -> Known:
        """What is known of each path; empty when there is no index, or none that can be read."""
        paths: dict[bytes, _Known] = {}
        noted: dict[str, Any] = {}
        begun = good = whole = 0
        try:
            data = self.path.read_bytes()
        except OSError:
            return Known()
        for at, end in _frames(data):
            try:
                version, found, noted, began = marshal.loads(data[at:end])  # noqa: S302 - ours, by its digest
            except (ValueError, EOFError, TypeError):
                return Known()
            if version != FORMAT:
                return Known()
            if good:
                for path, value in found.items():
                    if value is None:
                        paths.pop(path, None)
                    else:
                        paths[path] = value
            else:
                paths, whole = found, end
            good, begun = end, max(begun, began)
        return Known(paths, noted, begun, good, whole)

    def save(self, scan: ProtoScan, noted: Mapping[str, Any]) -> None:
        """Write down what has been read, and a note beside it.

        A few changes are added to the file's end; many, or the first time, write it anew.
        """
        limit = scan.begun - _GRAIN_NS
        entries = scan.entries
        fresh: dict[bytes, _Known | None] = {}
        young = False
        for path, _, info, old in scan.rows:
            if old is not None:
                continue
            entry = entries[path]
            ctime = info.st_ctime_ns
            if ctime >= limit or (entry.kind == "f" and not entry.sha256):
                young, ctime = True, _UNTRUSTED
            fresh[path] = (
                info.st_ino, info.st_size, info.st_mtime_ns, ctime, entry.kind, stat.S_IMODE(info.st_mode),
                info.st_uid, info.st_gid, entry.sha256, entry.target, entry.rdev, entry.xattrs,
            )  # fmt: skip
        there = {row[0] for row in scan.rows}
        gone = [path for path in scan.known.paths if path not in there]
        note = {} if young else dict(noted)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with lock(self.path.with_suffix(".lock")):
            few = len(fresh) + len(gone) < len(scan.rows) // 10
            if scan.known.paths and not scan.doubt and few and self._unmoved(scan.known):
                frame = _frame((FORMAT, {**fresh, **dict.fromkeys(gone)}, note, scan.begun))
                with self.path.open("ab") as stream:
                    stream.write(frame)
                return
            whole = {row[0]: row[3] for row in scan.rows if row[3] is not None}
            with atomic_write(self.path, durable=False) as stream:
                stream.write(_frame((FORMAT, {**whole, **fresh}, note, scan.begun)))

    def touch(self) -> None:
        """Note that the index was of use: what is not for long is pruned."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def _unmoved(self, known: Known) -> bool:
        """Whether the file is still the one that the scan was made with, whole, and not of many pieces."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return False
        return size == known.end and size < 2 * known.whole


def _frame(value: Any) -> bytes:
    body = marshal.dumps(value)
    return hashlib.sha256(body).digest() + len(body).to_bytes(8, "little") + body


def _frames(data: bytes) -> Iterator[tuple[int, int]]:
    """The (begin, end) of each whole frame; what follows a torn one is not read."""
    at = 0
    while at + 40 <= len(data):
        end = at + 40 + int.from_bytes(data[at + 32 : at + 40], "little")
        if end > len(data) or hashlib.sha256(data[at + 40 : end]).digest() != data[at : at + 32]:
            return
        yield at + 40, end
        at = end


def scan_proto(proto: Path, *, exclude: Exclude | None = None, index: StatIndex | None = None) -> ProtoScan:
    """Walk a proto directory. With an index, files that it knows are not read and need no second call.

    Raises OSError for what cannot be looked at.
    """
    begun = time.time_ns()
    index_of = index.load() if index else Known()
    result = ProtoScan([], {}, begun, known=index_of, exclude=exclude)
    if index_of.begun > begun:
        result.doubt = "the clock was set back since the last build"
    known = {} if result.doubt else index_of.paths
    top = os.fsencode(proto)
    rows = result.rows
    stack = [b""]
    size = files = unread = unread_size = hits = 0
    while stack:
        directory = stack.pop()
        prefix = directory + b"/" if directory else b""
        with os.scandir(top + b"/" + directory if directory else top) as listing:
            for item in listing:
                path = prefix + item.name
                info = item.stat(follow_symlinks=False)
                kind = info.st_mode & 0o170000
                if exclude is not None and exclude(path, kind == stat.S_IFDIR):
                    continue
                if kind == stat.S_IFDIR:
                    stack.append(path)
                elif info.st_nlink > 1:
                    result.inodes[path] = (info.st_dev, info.st_ino)
                old = known.get(path)
                if old is not None and old[:4] == (
                    info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
                ):  # fmt: skip
                    hits += 1
                else:
                    old = None
                    if kind == stat.S_IFREG:
                        unread += 1
                        unread_size += info.st_size
                rows.append((path, item.path, info, old))
                if kind == stat.S_IFREG:
                    files += 1
                    size += info.st_size
    result.files, result.size = files, size
    result.unread, result.unread_size = unread, unread_size
    result.unchanged = bool(known) and hits == len(rows) == len(known)
    if result.unchanged:
        result.noted = dict(index_of.noted)
    return result


# -- what it amounts to -------------------------------------------------------------------------------------

FEW_FILES = 2000
FEW_BYTES = 16 << 20


def read_few(scan: ProtoScan) -> bool:
    """Whether the content of every file is known; where only a few are not, they are read now.

    What changed can then be told exactly before anything is done.
    """
    if not scan.unread:
        return True
    if scan.unread > FEW_FILES or scan.unread_size > FEW_BYTES:
        return False
    entries = scan.entries
    try:
        scan.read += hash_entries(b"", [entries[row[0]] for row in scan.rows if row[3] is None])
    except OSError:  # it went, or may not be read: the build will say so
        return False
    spread_digests(entries)
    scan.unread = scan.unread_size = 0
    return True


def read_all(scan: ProtoScan) -> None:
    """Read every file whose content is not known yet."""
    scan.read += hash_entries(b"", scan.entries.values())
    spread_digests(scan.entries)
    scan.unread = scan.unread_size = 0


def digest(scan: ProtoScan, *, owners: bool, epoch: int | None) -> str:
    """A digest over all of a proto directory: what no build can tell apart has the same one.

    owners: whether the owners that it has on the agent matter; epoch: the latest time (s) that an image
    tells of it, None for no limit. Every file must have been read.
    """
    name = f"digest {owners} {epoch}"
    if name in scan.noted:
        return str(scan.noted[name])
    leaders: dict[tuple[int, int], bytes] = {}
    for path in sorted(scan.inodes):
        leaders.setdefault(scan.inodes[path], path)
    limit = None if epoch is None else epoch * 1_000_000_000
    hashes: dict[bytes, str] = {}
    entries = scan.entries if any(row[3] is None for row in scan.rows) else {}
    rows = []
    for path, _, info, old in sorted(scan.rows, key=_path):
        if old is not None:
            kind, sha256, target, rdev, xattrs = old[4], old[8], old[9], old[10], old[11]
        else:
            entry = entries[path]
            kind, sha256, target, rdev, xattrs = (
                entry.kind, entry.sha256, entry.target, entry.rdev, entry.xattrs,
            )  # fmt: skip
        first = b""
        if path in scan.inodes:
            first = leaders[scan.inodes[path]]
            sha256 = hashes.setdefault(first, sha256)
        assert sha256 or kind != "f", path
        mtime = info.st_mtime_ns
        if limit is not None and mtime > limit:
            mtime = limit
        owner = (info.st_uid, info.st_gid) if owners else None
        mode = 0 if kind == "l" else info.st_mode
        rows.append((path, kind, mode, owner, sha256, target, rdev, xattrs, first, mtime))
    state = hashlib.sha256(marshal.dumps(rows, 2))  # version 2: equal values, equal bytes
    scan.noted[name] = state.hexdigest()
    return str(scan.noted[name])


_path = operator.itemgetter(0)

_TOLD = 200
"""How many changed paths are told."""


def explain(scan: ProtoScan) -> list[tuple[str, str]]:
    """The changed paths and exactly what differs from what the index knew, as far as it has been read.

    A path that went and one of the same inode and content that came are a rename; what is in a renamed
    directory went with it. A directory is not told for the time that a change in it gave it.
    """
    if scan.doubt:
        return [("", scan.doubt)]
    if not scan.changed:
        return []
    if scan.told is None or scan.told[0] != scan.unread:
        scan.told = (scan.unread, _explained(scan))
    return scan.told[1]


def _explained(scan: ProtoScan) -> list[tuple[str, str]]:
    known, entries = scan.known.paths, scan.entries
    rows = {row[0]: row for row in scan.rows}
    came = {path: info for path, _, info, old in scan.rows if old is None and path not in known}
    went = {path: old for path, old in known.items() if path not in rows}
    told: dict[bytes, str] = {}
    renamed = _renamed(scan, came, went)
    for new, old_path in renamed.items():
        parent, before = new.rpartition(b"/")[0], old_path.rpartition(b"/")[0]
        same_name = new.rpartition(b"/")[2] == old_path.rpartition(b"/")[2]
        if not (same_name and renamed.get(parent) == before and parent):
            told[new] = f"renamed from {os.fsdecode(old_path)}"
    moved = set(renamed.values())
    for path in went.keys() - moved:
        told[path] = "excluded" if scan.exclude and _excluded(scan, path, went[path]) else "removed"
    links = _by_inode({path: info.st_ino for path, info in came.items() if path not in renamed})
    unlinked = _by_inode({path: went[path][0] for path in went.keys() - moved})
    for path, _, info, old in scan.rows:
        if old is not None or path in renamed:
            continue
        if path not in known:
            others = [other for other in _mates(scan, path) if other in known or other < path]
            told[path] = f"added, a hard link to {os.fsdecode(others[0])}" if others else "added"
            continue
        if text := _differs(known[path], info, entries[path]):
            told[path] = text
        elif info.st_ino in links or (info.st_ino in unlinked and known[path][4] == "f"):
            way, other = ("added", links) if info.st_ino in links else ("removed", unlinked)
            told[path] = f"hard link {way} ({os.fsdecode(other[info.st_ino])})"
        else:
            told[path] = _touched(known[path], info)
    consequences = {path.rpartition(b"/")[0] for path in {*came, *went}}
    kept = {
        path: text
        for path, text in told.items()
        if not (path in rows and path in known and known[path][4] == "d" and path in consequences)
        or not text.startswith(("touched", "time"))
    }
    # What matters first, so that a few lines tell it.
    order = sorted(kept, key=lambda path: (kept[path].startswith(("touched", "time")), path))
    return [(os.fsdecode(path), kept[path]) for path in order[:_TOLD]]


def _renamed(
    scan: ProtoScan, came: Mapping[bytes, os.stat_result], went: Mapping[bytes, _Known]
) -> dict[bytes, bytes]:
    """New path to old, by inode, kind, and for a file size and content as well."""
    before: dict[tuple[int, str], bytes] = {(old[0], old[4]): path for path, old in went.items()}
    entries = scan.entries
    found = {}
    for path, info in came.items():
        entry = entries[path]
        was = before.get((info.st_ino, entry.kind))
        if was is None or path in scan.inodes:
            continue
        old = went[was]
        if entry.kind == "f" and (old[1] != info.st_size or (entry.sha256 and entry.sha256 != old[8])):
            continue
        found[path] = was
    return found


def _excluded(scan: ProtoScan, path: bytes, old: _Known) -> bool:
    """Whether a path is excluded now, itself or by a directory above it."""
    assert scan.exclude is not None
    parts = path.split(b"/")
    above = (b"/".join(parts[:depth]) for depth in range(1, len(parts)))
    return scan.exclude(path, old[4] == "d") or any(scan.exclude(folder, True) for folder in above)


def _by_inode(paths: Mapping[bytes, int]) -> dict[int, bytes]:
    return {inode: path for path, inode in sorted(paths.items(), reverse=True)}


def _mates(scan: ProtoScan, path: bytes) -> list[bytes]:
    """The other names of a hard link, in order."""
    if path not in scan.inodes:
        return []
    inode = scan.inodes[path]
    return sorted(other for other, of in scan.inodes.items() if of == inode and other != path)


def _differs(old: _Known, info: os.stat_result, entry: Entry) -> str:
    """One short sentence for what is not as it was, times aside. old: see _Known."""
    kind, mode, uid, gid, sha256, target, rdev, xattrs = old[4:]
    if kind != entry.kind:
        return f"type {kind} -> {entry.kind}"
    found = []
    if mode != stat.S_IMODE(info.st_mode) and entry.kind != "l":
        found.append(f"mode {mode:04o} -> {stat.S_IMODE(info.st_mode):04o}")
    if (uid, gid) != (info.st_uid, info.st_gid):
        found.append(f"owner {uid}:{gid} -> {info.st_uid}:{info.st_gid}")
    if target != entry.target:
        found.append(f"target {os.fsdecode(target)} -> {os.fsdecode(entry.target)}")
    if rdev != entry.rdev:
        found.append(f"device {rdev[0]}:{rdev[1]} -> {entry.rdev[0]}:{entry.rdev[1]}")
    if xattrs != entry.xattrs:
        names = {key for key, _ in {*xattrs} ^ {*entry.xattrs}}
        found.append(f"attribute {', '.join(sorted(map(os.fsdecode, names)))}")
    if kind == "f" and entry.sha256 and sha256 != entry.sha256:
        found.append(f"content ({old[1]} -> {info.st_size} bytes)")
    elif kind == "f" and old[1] != info.st_size:
        found.append(f"size {old[1]} -> {info.st_size}")
    elif kind == "f" and not entry.sha256 and not entry.first and not found:
        found.append("touched; its content has to be read")
    return ", ".join(found)


def _touched(old: _Known, info: os.stat_result) -> str:
    if old[3] == _UNTRUSTED and old[:3] == (info.st_ino, info.st_size, info.st_mtime_ns):
        return "touched: too young at the last build to be trusted, the same now"
    return "touched, the same otherwise" if old[2] == info.st_mtime_ns else "time, the same otherwise"
