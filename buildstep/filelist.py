"""File lists: one record per path of a tree, their canonical text, the tree digest, and what differs.

Canonical text: the line `buildstep-filelist 1`, then one line per path, sorted by the path's bytes, with
tab-separated fields: kind, permissions (octal), uid, gid, size, sha256, target, xattrs, path. kind is one
of f d l c b p s. target is a link's text, `major:minor` of a device, and for the later members of a
hard-link group the group's first path, after `\\=` where it follows one of those. A field without a
value is `-`; bytes outside 0x21..0x7e, the backslash, and a field that is only a dash are written
`\\xNN`. The tree digest is the SHA-256 of that text. Times are not part of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildstep.errors import StoreError
from buildstep.system.files import CHUNK

HEADER = b"buildstep-filelist 1\n"
_LINKED = b"\\="
"""Between what a link or a device is and the first path of its hard-link group; no escape looks like it."""

KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}
TYPE_BITS = {kind: bits for bits, kind in KINDS.items()}

Xattrs = tuple[tuple[bytes, bytes], ...]

SKIPPED_XATTRS = re.compile(
    rb"(trusted|user)\.overlay\.|security\.(selinux|ima|evm|apparmor|SMACK)|system\.nfs4_acl"
    rb"|trusted\.SGI_"
)
"""Labels that the agent's kernel or overlay adds; they are not part of an image."""


@dataclass(slots=True)
class Entry:
    """One path of a tree. path: relative, no leading slash, b"" for the top; mtime: nanoseconds.

    sha256 is empty until somebody has read the file. first: for the later members of a hard-link group,
    the path of the first one. source: where the content is when it is not under the tree's own root.
    """

    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    sha256: str = ""
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: Xattrs = ()
    first: bytes = b""
    mtime: int = 0
    source: bytes = b""
    text: bytes = field(default=b"", init=False, compare=False, repr=False)
    """The canonical line once it is known; whoever changes an entry after that empties it."""

    def same_metadata(self, other: Entry) -> bool:
        """Equal in all but content and time."""
        return (
            self.kind == other.kind
            and self.mode == other.mode
            and self.uid == other.uid
            and self.gid == other.gid
            and self.size == other.size
            and self.target == other.target
            and self.first == other.first
            and self.rdev == other.rdev
            and self.xattrs == other.xattrs
        )


FileList = dict[bytes, Entry]
"""Path to entry. Sorted by path wherever it is read or written."""


# -- canonical text -----------------------------------------------------------------------------------

_PLAIN = re.compile(rb"[\x21-\x5b\x5d-\x7e]*")


def _escape(raw: bytes) -> bytes:
    if raw == b"-":
        return b"\\x2d"
    if _PLAIN.fullmatch(raw):
        return raw
    return b"".join(b"%c" % c if 0x21 <= c <= 0x7E and c != 0x5C else b"\\x%02x" % c for c in raw)


def _unescape(raw: bytes) -> bytes:
    if b"\\" not in raw:
        return raw
    return re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), raw)


def line(entry: Entry) -> bytes:
    """The canonical line of one entry, with its line end."""
    if entry.text:
        return entry.text
    target = b""
    if entry.kind == "l":
        target = _escape(entry.target)
    elif entry.kind in "cb":
        target = b"%d:%d" % entry.rdev
    if entry.first:
        target += (_LINKED if target else b"") + _escape(entry.first)
    xattrs = b",".join(_escape(k).replace(b",", b"\\x2c") + b"=" + v.hex().encode() for k, v in entry.xattrs)
    text = b"%s\t%04o\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n" % (
        entry.kind.encode(),
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size if entry.kind == "f" else 0,
        entry.sha256.encode() if entry.kind == "f" and entry.sha256 else b"-",
        target or b"-",
        xattrs or b"-",
        _escape(entry.path) or b".",
    )
    if entry.kind != "f" or entry.sha256:
        entry.text = text
    return text


def tree_digest(entries: FileList) -> str:
    """Hex SHA-256 over the canonical text. Every regular file must have been hashed."""
    return digest_of(lines_of(entries))


def lines_of(entries: FileList) -> list[bytes]:
    """The canonical lines of a tree. Every regular file must have been hashed."""
    found = []
    for path in sorted(entries):
        entry = entries[path]
        if entry.kind == "f" and not entry.sha256:
            raise AssertionError(f"{os.fsdecode(path)} has not been hashed")
        found.append(entry.text or line(entry))
    return found


def digest_of(lines: Iterable[bytes]) -> str:
    """The tree digest of a tree with these canonical lines, which are in order."""
    digest = hashlib.sha256(HEADER)
    digest.update(b"".join(lines))
    return digest.hexdigest()


def dumps(entries: FileList) -> bytes:
    """The stored form: the canonical text with each entry's mtime (ns) as a tenth field."""
    rows = [HEADER]
    rows += [line(entries[path])[:-1] + b"\t%d\n" % entries[path].mtime for path in sorted(entries)]
    return b"".join(rows)


def loads(data: bytes) -> FileList:
    """Read the stored or the canonical form. Raises StoreError for anything else."""
    if not data.startswith(HEADER):
        raise StoreError("not a file list of a format that this version reads")
    entries: FileList = {}
    try:
        for row in data[len(HEADER) :].splitlines():
            entry = parse(row)
            entries[entry.path] = entry
    except (ValueError, KeyError) as error:
        raise StoreError(f"a damaged file list: {error}") from error
    return entries


def parse(row: bytes) -> Entry:
    """The entry of a line, stored or canonical. Raises ValueError for what is none."""
    kind, mode, uid, gid, size, digest, target, xattrs, path, *rest = row.rstrip(b"\n").split(b"\t")
    if kind in (b"f", b"d") and target == xattrs == b"-" and b"\\" not in path:  # nearly every one
        return Entry(
            path if path != b"." else b"", kind.decode(), int(mode, 8), int(uid), int(gid), int(size),
            "" if digest == b"-" else digest.decode(), mtime=int(rest[0]) if rest else 0,
        )  # fmt: skip
    entry = Entry(
        path=b"" if path == b"." else _unescape(path),
        kind=kind.decode(),
        mode=int(mode, 8),
        uid=int(uid),
        gid=int(gid),
        size=int(size),
        sha256="" if digest == b"-" else digest.decode(),
        mtime=int(rest[0]) if rest else 0,
    )
    if entry.kind not in TYPE_BITS:
        raise ValueError(f"kind {entry.kind!r}")
    if xattrs != b"-":
        pairs = (pair.rpartition(b"=") for pair in xattrs.split(b","))
        entry.xattrs = tuple((_unescape(k), bytes.fromhex(v.decode())) for k, _, v in pairs)
    if entry.kind in "lcb":
        target, _, first = target.partition(_LINKED)
        entry.first = _unescape(first)
    if target != b"-":
        if entry.kind == "l":
            entry.target = _unescape(target)
        elif entry.kind in "cb":
            major, _, minor = target.partition(b":")
            entry.rdev = (int(major), int(minor))
        else:
            entry.first = _unescape(target)
    return entry


# -- scanning -------------------------------------------------------------------------------------------


def read_xattrs(path: bytes) -> Xattrs:
    """The extended attributes that belong to an image, sorted by name. A link's own, never its target's."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return ()
        raise
    if not names:
        return ()
    found = []
    for name in sorted(map(os.fsencode, names)):
        if not SKIPPED_XATTRS.match(name):
            found.append((name, os.getxattr(path, name, follow_symlinks=False)))
    return tuple(found)


def entry_of(path: bytes, full: bytes, info: os.stat_result) -> Entry:
    """The entry of something on disk, its content unread. path: in the tree; full: on the agent."""
    kind, mode = KINDS[stat.S_IFMT(info.st_mode)], stat.S_IMODE(info.st_mode)
    return seen_entry(path, full, kind, mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns)


def seen_entry(
    path: bytes, full: bytes, kind: str, mode: int, uid: int, gid: int, size: int, mtime: int
) -> Entry:
    """The same for who has of lstat's answer only what is in an entry: its link or device is asked for."""
    entry = Entry(path, kind, mode, uid, gid, mtime=mtime, xattrs=read_xattrs(full))
    if kind == "f":
        entry.size = size
    elif kind == "l":
        entry.target = os.readlink(full)
        entry.mode = 0o777
    elif kind in "cb":
        rdev = os.lstat(full).st_rdev
        entry.rdev = (os.major(rdev), os.minor(rdev))
    return entry


def walk(top: bytes) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Every path below (and with) `top`: (path in the tree, path on the agent, lstat). Links not followed."""
    yield b"", top, os.lstat(top)
    stack = [b""]
    while stack:
        directory = stack.pop()
        with os.scandir(top + b"/" + directory if directory else top) as listing:
            for item in listing:
                path = directory + b"/" + item.name if directory else item.name
                info = item.stat(follow_symlinks=False)
                yield path, item.path, info
                if stat.S_ISDIR(info.st_mode):
                    stack.append(path)


def scan(root: Path | bytes) -> FileList:
    """All of a tree, unhashed, hard-link groups resolved."""
    found: FileList = {}
    inodes: dict[bytes, tuple[int, int]] = {}
    for path, full, info in walk(os.fsencode(root)):
        found[path] = entry_of(path, full, info)
        if info.st_nlink > 1 and found[path].kind != "d":
            inodes[path] = (info.st_dev, info.st_ino)
    link_groups(found, inodes)
    return found


def link_groups(entries: FileList, inodes: Mapping[bytes, tuple[int, int]]) -> None:
    """Set `first` of every later member of a hard-link group; members are known by their inode."""
    first: dict[tuple[int, int], bytes] = {}
    for path in sorted(inodes):
        leader = first.setdefault(inodes[path], path)
        entries[path].first = b"" if leader == path else leader
        entries[path].text = b""


Owner = Callable[[Entry], tuple[int, int]]


def plain_mode(entry: Entry) -> int:
    """The mode that an entry has on the disk of a user who cannot have what is not theirs."""
    return (entry.mode & 0o777) | (0o700 if entry.kind == "d" else 0o600)


def scan_changed(
    root: Path | bytes, base: FileList, *, since: int, owner: Owner | None = None, devices: bool = True
) -> FileList:
    """A tree that began as a copy of `base`: entries whose inode changed after `since` are read anew.

    since: a ctime (ns) taken when the copy was complete; ctimes cannot be set back, and an equal one
    counts as changed. owner: what to record for changed entries where the real owner cannot be set; it
    may set an entry's mode and attributes right as well. devices: False where device nodes could not be
    made, so that their absence means nothing.
    """
    found: FileList = {}
    inodes: dict[bytes, tuple[int, int]] = {}
    for path, full, info in walk(os.fsencode(root)):
        old = base.get(path)
        unchanged = old is not None and info.st_ctime_ns < since
        if old is not None and unchanged and KINDS[stat.S_IFMT(info.st_mode)] == old.kind:
            found[path] = replace(old)
        else:
            entry = entry_of(path, full, info)
            if owner is not None:
                entry.uid, entry.gid = owner(entry)
            found[path] = entry
        if info.st_nlink > 1 and found[path].kind != "d":
            inodes[path] = (info.st_dev, info.st_ino)
    if not devices:
        for path, old in base.items():
            if old.kind in "cb" and path not in found and path.rpartition(b"/")[0] in found:
                found[path] = replace(old)
    link_groups(found, inodes)
    return found


_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def scan_overlay(upper: Path, base: FileList) -> FileList:
    """What a tree is when `upper`, an overlay's upper directory, lies on `base`."""
    found: FileList = dict(base)
    inodes: dict[bytes, tuple[int, int]] = {}
    for path, full, info in sorted(walk(os.fsencode(upper)), key=lambda item: item[0]):
        old = found.get(path)
        whiteout = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
        directory = stat.S_ISDIR(info.st_mode)
        if old is not None and old.kind == "d" and (not directory or _is_opaque(full)):
            drop_below(found, path)
        if whiteout:
            found.pop(path, None)
            continue
        found[path] = entry_of(path, full, info)
        if info.st_nlink > 1 and not directory:
            inodes[path] = (info.st_dev, info.st_ino)
    link_groups(found, inodes)
    heal_groups(found)
    return found


def _is_opaque(full: bytes) -> bool:
    for name in _OPAQUE:
        with contextlib.suppress(OSError):
            if os.getxattr(full, name, follow_symlinks=False) == b"y":
                return True
    return False


def drop_below(entries: FileList, directory: bytes) -> None:
    prefix = directory + b"/" if directory else b""
    for path in [p for p in entries if p.startswith(prefix) and p != directory]:
        del entries[path]


def heal_groups(entries: FileList, laid: Container[bytes] = ()) -> None:
    """Hard-link groups of the base whose first member changed or went: the next member leads.

    laid: paths that came from elsewhere, and so are of no group of the base, whatever they hold.
    """
    followers: dict[bytes, list[bytes]] = {}
    for path, entry in entries.items():
        if entry.first:
            followers.setdefault(entry.first, []).append(path)
    for leader, members in followers.items():
        head = None if leader in laid else entries.get(leader)
        if leader in laid:
            members = [path for path in members if path not in laid]  # noqa: PLW2901
            if not members:
                continue
        if head is not None and head.kind == entries[members[0]].kind and not head.first:
            member = entries[members[0]]
            if head.sha256 == member.sha256 and head.size == member.size:
                continue
        members.sort()
        for path in members:
            entries[path] = replace(entries[path], first=b"" if path == members[0] else members[0])


# -- hashing and difference -------------------------------------------------------------------------------


def open_content(root: bytes, entry: Entry) -> int:
    """A descriptor of a regular file's content; a link under that name is refused."""
    path = entry.source or root + b"/" + entry.path
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def hash_entries(root: Path | bytes, entries: Iterable[Entry]) -> int:
    """Fill in the SHA-256 of files that have none; returns the bytes read."""
    top = os.fsencode(root)
    total = 0
    for entry in entries:
        if entry.kind != "f" or entry.sha256 or entry.first:
            continue
        digest = hashlib.sha256()
        with os.fdopen(open_content(top, entry), "rb", buffering=0) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                total += len(chunk)
        entry.sha256 = digest.hexdigest()
    return total


def spread_digests(entries: FileList) -> None:
    """Give the later members of each hard-link group the digest of the first."""
    for entry in entries.values():
        if entry.first and entry.kind == "f":
            entry.sha256 = entries[entry.first].sha256


@dataclass(frozen=True, slots=True)
class Changes:
    """A layer: what to lay on a base to get a tree. Both sorted by path; `removed` is topmost only."""

    entries: tuple[Entry, ...]
    removed: tuple[bytes, ...]


def diff(base: FileList, tree: FileList) -> Changes:
    """What differs, times aside. Files of `tree` that equal the base in metadata must be hashed.

    A hard-link group is written whole when any member of it changed, so that a layer stands alone.
    """
    changed = {path for path, entry in tree.items() if not _equal(base.get(path), entry)}
    groups: dict[bytes, list[bytes]] = {}
    for path, entry in tree.items():
        if entry.first:
            groups.setdefault(entry.first, []).append(path)
    for leader, members in groups.items():
        if changed.intersection([leader, *members]):
            changed.update([leader, *members])
    gone = sorted(path for path in base if path not in tree)
    removed: list[bytes] = []
    for path in gone:
        parent = path.rpartition(b"/")[0]
        # A file that took a directory's place removes what was below it; so does a removed parent.
        over = tree.get(parent)
        if (over is None and parent in base) or (over is not None and over.kind != "d"):
            continue
        removed.append(path)
    return Changes(tuple(tree[path] for path in sorted(changed)), tuple(removed))


def _equal(old: Entry | None, new: Entry) -> bool:
    if old is None or not old.same_metadata(new):
        return False
    return new.kind != "f" or old.sha256 == new.sha256
