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
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.filelist import Entry, FileList, entry_of, link_groups
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


_Row = tuple[bytes, bytes, os.stat_result, _Known | None]
"""A path in the proto, on the agent, what lstat says, and its index entry if that holds."""


@dataclass(slots=True)
class ProtoScan:
    """A proto directory as it is.

    unread: how many files have to be read; files, size: how many there are and their bytes; changed: paths
    whose index entry did not hold, and why (the first of them); unchanged: every entry holds and none is
    missing; noted: what the last build wrote beside the index, if nothing changed since; begun: when the
    walk began, in ns; known: the index.
    """

    rows: list[_Row]
    inodes: dict[bytes, tuple[int, int]]
    begun: int
    unread: int = 0
    files: int = 0
    size: int = 0
    changed: list[tuple[str, str]] = field(default_factory=list)
    unchanged: bool = False
    noted: dict[str, Any] = field(default_factory=dict)
    known: Mapping[bytes, _Known] = field(default_factory=dict)
    index_size: int = 0
    index_whole: int = 0
    _entries: FileList | None = None

    @property
    def entries(self) -> FileList:
        """By path in the proto, each with its `source`; hashed where the index holds. Made on first use."""
        if self._entries is None:
            found = {path: _entry(path, full, info, old) for path, full, info, old in self.rows}
            if self.inodes:
                link_groups(found, self.inodes)
            self._entries = found
        return self._entries


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

    def load(self) -> tuple[dict[bytes, _Known], dict[str, Any]]:
        """What is known of each path, and what a build noted beside it; empty when there is none."""
        known: dict[bytes, _Known] = {}
        noted: dict[str, Any] = {}
        try:
            data = self.path.read_bytes()
        except OSError:
            return known, noted
        for at, end in _frames(data):
            version, found, noted = marshal.loads(data[at:end])  # noqa: S302 - our own file, by its digest
            if version != FORMAT:
                return {}, {}
            if known:
                for path, value in found.items():
                    if value is None:
                        known.pop(path, None)
                    else:
                        known[path] = value
            else:
                known = found
        return known, noted

    def save(self, scan: ProtoScan, noted: dict[str, Any]) -> None:
        """Write down what has been read, and a note beside it; entries too young to trust are left out.

        A few changes are added to the file's end; many, or the first time, write it anew.
        """
        limit = scan.begun - _GRAIN_NS
        entries = scan.entries
        fresh: dict[bytes, _Known | None] = {}
        young = 0
        for path, _, info, old in scan.rows:
            if old is not None:
                continue
            entry = entries[path]
            if info.st_ctime_ns >= limit or (entry.kind == "f" and not entry.sha256):
                young += 1
                continue
            fresh[path] = (
                info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, entry.kind, entry.mode,
                info.st_uid, info.st_gid, entry.sha256, entry.target, entry.rdev, entry.xattrs,
            )  # fmt: skip
        there = {row[0] for row in scan.rows}
        stale = {row[0] for row in scan.rows if row[3] is None} - fresh.keys()
        gone = [path for path in scan.known if path not in there or path in stale]
        note = {} if young else noted
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with lock(self.path.with_suffix(".lock")):
            if scan.known and len(fresh) + len(gone) < len(scan.rows) // 10 and self._unmoved(scan):
                frame = _frame((FORMAT, {**fresh, **dict.fromkeys(gone)}, note))
                with self.path.open("ab") as stream:
                    stream.write(frame)
                return
            whole = {row[0]: row[3] for row in scan.rows if row[3] is not None}
            with atomic_write(self.path, durable=False) as stream:
                stream.write(_frame((FORMAT, {**whole, **fresh}, note)))

    def sizes(self) -> tuple[int, int]:
        """Bytes of the whole file, and of its first piece."""
        with contextlib.suppress(OSError), self.path.open("rb") as stream:
            head = stream.read(40)
            return os.fstat(stream.fileno()).st_size, 40 + int.from_bytes(head[32:], "little")
        return 0, 0

    def _unmoved(self, scan: ProtoScan) -> bool:
        """Whether the file is still the one that the scan was made with, and not made of many pieces."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return False
        return size == scan.index_size and size < 2 * scan.index_whole


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


_TOLD = 200
"""How many changed paths are kept to be told."""


def scan_proto(proto: Path, *, exclude: Exclude | None = None, index: StatIndex | None = None) -> ProtoScan:
    """Walk a proto directory. With an index, files that it knows are not read and need no second call.

    Raises OSError for what cannot be looked at.
    """
    if exclude is keep_all:
        exclude = None  # a call for each path would be felt
    begun = time.time_ns()
    known, noted = index.load() if index else ({}, {})
    top = os.fsencode(proto)
    result = ProtoScan([], {}, begun, known=known)
    if index is not None and known:
        result.index_size, result.index_whole = index.sizes()
    rows = result.rows
    stack = [b""]
    size = files = unread = hits = lost = 0
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
                stamp = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
                if old is not None and old[:4] == stamp:
                    hits += 1
                else:
                    if known and len(result.changed) < _TOLD:
                        result.changed.append((os.fsdecode(path), _why(old)))
                    lost += old is not None
                    old = None
                    unread += kind == stat.S_IFREG
                rows.append((path, item.path, info, old))
                if kind == stat.S_IFREG:
                    files += 1
                    size += info.st_size
    if len(known) > hits + lost:
        there = {row[0] for row in rows}
        result.changed += [(os.fsdecode(path), "removed") for path in known if path not in there][:_TOLD]
    result.files, result.size, result.unread = files, size, unread
    result.unchanged = bool(known) and hits == len(rows) == len(known)
    if result.unchanged:
        result.noted = noted
    return result


def _why(old: _Known | None) -> str:
    return "added" if old is None else "changed"


def explain(scan: ProtoScan) -> list[tuple[str, str]]:
    """The changed paths and exactly what differs from what the index knew, as far as it has been read.

    A path that went and one of the same inode that came are a rename.
    """
    entries = scan.entries
    rows = {row[0]: row for row in scan.rows}
    came = {
        rows[path][2].st_ino: path
        for path in map(os.fsencode, (p for p, why in scan.changed if why == "added"))
    }
    told: list[tuple[str, str]] = []
    renamed: set[bytes] = set()
    for name, why in scan.changed:
        path = os.fsencode(name)
        if why == "removed" and scan.known[path][0] in came:
            new = came[scan.known[path][0]]
            renamed.add(new)
            told.append((os.fsdecode(new), f"renamed from {name}"))
        elif why == "removed":
            told.append((name, why))
        elif why == "changed":
            told.append((name, _differs(scan.known[path], rows[path][2], entries[path])))
    told += [(name, why) for name, why in scan.changed if why == "added" and os.fsencode(name) not in renamed]
    return sorted(told)


def _differs(old: _Known, info: os.stat_result, entry: Entry) -> str:
    """One short sentence for what is not as it was. old: see StatIndex.save."""
    kind, mode, uid, gid, sha256, target, rdev, xattrs = old[4:]
    found = []
    if kind != entry.kind:
        found.append(f"type {kind} -> {entry.kind}")
    if mode != stat.S_IMODE(info.st_mode) and entry.kind != "l":
        found.append(f"mode {mode:04o} -> {stat.S_IMODE(info.st_mode):04o}")
    if (uid, gid) != (info.st_uid, info.st_gid):
        found.append(f"owner {uid}:{gid} -> {info.st_uid}:{info.st_gid}")
    if target != entry.target:
        found.append(f"target {os.fsdecode(target)} -> {os.fsdecode(entry.target)}")
    if rdev != entry.rdev:
        found.append(f"device {rdev} -> {entry.rdev}")
    if xattrs != entry.xattrs:
        names = {key for key, _ in {*xattrs} ^ {*entry.xattrs}}
        found.append(f"attribute {', '.join(sorted(map(os.fsdecode, names)))}")
    if entry.kind == "f" and entry.sha256 and sha256 != entry.sha256:
        found.append(f"content ({old[1]} -> {entry.size} bytes)")
    elif entry.kind == "f" and old[1] != info.st_size:
        found.append(f"size {old[1]} -> {info.st_size}")
    elif not found and entry.kind == "f" and not entry.sha256:
        found.append("times; its content has to be read")
    return ", ".join(found) or "touched, the same otherwise"
