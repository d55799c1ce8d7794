"""Read a directory tree into a file list."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from buildstep.errors import EmitError
from buildstep.system.text import shown_path
from buildstep.tree.entry import KINDS, LARGEST, Entry, FileList, Xattrs, check_length, longest_below

SKIPPED_XATTRS = re.compile(
    rb"(trusted|user)\.overlay\.|user\.fuseoverlayfs\.|trusted\.SGI_|system\.nfs4_acl"
    rb"|security\.(selinux|ima|evm|apparmor|SMACK)"
)
"""Labels that the CI host's kernel or overlay adds; they are not part of an image."""


def read_xattrs(path: bytes) -> Xattrs:
    """Return the extended attributes of an image, sorted by name; a link's own, not its target's."""
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
    """Return the entry of something on disk, its content unread. path: in the tree; full: on the CI host.

    Raises OSError, and EmitError for a file that is too large for an image.
    """
    if info.st_size > LARGEST and stat.S_ISREG(info.st_mode):
        raise EmitError(
            f"{shown_path(path)} has {info.st_size} bytes, and a file of an image can have {LARGEST}",
            hint="its holes count as well; remove it, or find what made it",
        )
    kind, mode = KINDS[stat.S_IFMT(info.st_mode)], stat.S_IMODE(info.st_mode)
    entry = Entry(path, kind, mode, info.st_uid, info.st_gid, info.st_size, mtime=info.st_mtime_ns)
    return complete(entry, full)


def complete(entry: Entry, full: bytes) -> Entry:
    """Add to an entry what lstat alone does not tell, and return it. full: its path on the CI host."""
    entry.xattrs = read_xattrs(full)
    if entry.kind == "f":
        return entry
    entry.size = 0
    if entry.kind == "l":
        entry.target = os.readlink(full)
        entry.mode = 0o777
    elif entry.kind in "cb":
        rdev = os.lstat(full).st_rdev
        entry.rdev = (os.major(rdev), os.minor(rdev))
    return entry


def walk(
    top: bytes, unread: dict[bytes, OSError] | None = None
) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Yield (path in the tree, path on the CI host, lstat) of `top` and all below; follow no link.

    unread: for a tree of which not all is wanted. It takes the directories that cannot be read, with why; a
    path that is too long is then yielded and not entered.
    Raises OSError, and PathTooLong for a tree that no image can hold.
    """
    yield b"", top, os.lstat(top)
    stack = [b""]
    limit = longest_below(top)
    while stack:
        directory = stack.pop()
        # A name has up to 255 bytes: far from the limit, nothing needs to be looked at.
        near = len(directory) + 256 > limit
        try:
            listing = os.scandir(top + b"/" + directory if directory else top)
        except OSError as error:
            if unread is None or not directory:
                raise
            unread[directory] = error
            continue
        with listing:
            for item in listing:
                path = directory + b"/" + item.name if directory else item.name
                if near and len(path) > limit:
                    if unread is None:
                        check_length(path, limit)
                    yield path, item.path, _lstat_in(top + b"/" + directory, item.name)
                    continue
                info = item.stat(follow_symlinks=False)
                yield path, item.path, info
                if stat.S_ISDIR(info.st_mode):
                    stack.append(path)


def _lstat_in(folder: bytes, name: bytes) -> os.stat_result:
    """What lstat says of a name in a directory, also where both together are too long for a path."""
    fd = os.open(folder or b"/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.lstat(name, dir_fd=fd)
    finally:
        os.close(fd)


def _refuse_other_device(path: bytes, info: os.stat_result) -> None:
    """Raise EmitError for a mount, or a subvolume that something made, in a tree: no clone would have it.

    Files of an overlay are on the device of the layer that they are from.
    """
    if stat.S_ISDIR(info.st_mode):
        raise EmitError(
            f"{shown_path(path)} is a file system or subvolume of its own, and cannot be part of an image",
            hint="what made it, a package script? an image is one tree of plain directories",
        )


def scan(root: Path | bytes) -> FileList:
    """Return all of a tree, unhashed, with its hard-link groups. Raises OSError, PathTooLong, EmitError."""
    found: FileList = {}
    inodes: dict[bytes, tuple[int, int]] = {}
    device = os.lstat(root).st_dev
    for path, full, info in walk(os.fsencode(root)):
        if info.st_dev != device:
            _refuse_other_device(path, info)
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
    """Return the mode that an entry has on disk for a user without root, who must be able to read it."""
    return (entry.mode & 0o777) | (0o700 if entry.kind == "d" else 0o600)


def scan_changed(
    root: Path | bytes, base: FileList, *, since: int, owner: Owner | None = None, devices: bool = True
) -> FileList:
    """A tree that began as a copy of `base`: entries whose inode changed after `since` are read anew.

    since: a ctime (ns) taken when the copy was complete; ctimes cannot be set back, and an equal one
    counts as changed. owner: what to record for changed entries where the real owner cannot be set; it
    may set an entry's mode and attributes right as well. devices: False where device nodes could not be
    made and trusted.* attributes not be set, so that their absence means nothing.
    """
    found: FileList = {}
    inodes: dict[bytes, tuple[int, int]] = {}
    device = os.lstat(root).st_dev
    for path, full, info in walk(os.fsencode(root)):
        if info.st_dev != device:
            _refuse_other_device(path, info)
        old = base.get(path)
        unchanged = old is not None and info.st_ctime_ns < since
        if old is not None and unchanged and KINDS[stat.S_IFMT(info.st_mode)] == old.kind:
            found[path] = replace(old)
        else:
            entry = entry_of(path, full, info)
            if owner is not None:
                entry.uid, entry.gid = owner(entry)
            elif old is not None and not devices:
                keep_trusted(entry, old)
            found[path] = entry
        if info.st_nlink > 1 and found[path].kind != "d":
            inodes[path] = (info.st_dev, info.st_ino)
    if not devices:
        for path, old in base.items():
            if old.kind in "cb" and path not in found and path.rpartition(b"/")[0] in found:
                found[path] = replace(old)
    link_groups(found, inodes)
    return found


@dataclass(frozen=True, slots=True)
class Marks:
    """How an upper directory says what it hides of the layers below, beside the device nodes 0:0.

    opaque: the attribute whose value is `y` on a directory below which nothing shines through; blind: who
    writes there can neither see nor set trusted.*, so files keep those they had below.
    """

    opaque: str
    blind: bool = False


def scan_overlay(upper: Path, base: FileList, marks: Marks) -> FileList:
    """Return the tree that an overlay shows: its upper directory on `base`."""
    found: FileList = dict(base)
    inodes: dict[bytes, tuple[int, int]] = {}
    for path, full, info in sorted(walk(os.fsencode(upper)), key=lambda item: item[0]):
        old = found.get(path)
        whiteout = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
        directory = stat.S_ISDIR(info.st_mode)
        if old is not None and old.kind == "d" and (not directory or _is_opaque(full, marks)):
            drop_below(found, path)
        if whiteout:
            found.pop(path, None)
            continue
        found[path] = entry_of(path, full, info)
        if marks.blind and old is not None:
            keep_trusted(found[path], old)
        if info.st_nlink > 1 and not directory:
            inodes[path] = (info.st_dev, info.st_ino)
    link_groups(found, inodes)
    heal_groups(found)
    return found


def _is_opaque(full: bytes, marks: Marks) -> bool:
    with contextlib.suppress(OSError):
        return os.getxattr(full, marks.opaque, follow_symlinks=False) == b"y"
    return False


def keep_trusted(entry: Entry, old: Entry) -> None:
    """Give an entry the trusted.* attributes that it had: whoever changed it could not see them."""
    kept = tuple(pair for pair in old.xattrs if pair[0].startswith(b"trusted."))
    if kept and old.kind == entry.kind:
        entry.xattrs = tuple(sorted(entry.xattrs + kept))


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


def fingerprint_of(tree: Path) -> str:
    """Return a digest that changes when anything in a tree is touched: ctimes cannot be set back."""
    rows = [
        b"%s\0%d %d %d %d" % (path, info.st_mode, info.st_size, info.st_ctime_ns, info.st_ino)
        for path, _, info in walk(os.fsencode(tree))
    ]
    return hashlib.sha256(b"\n".join(sorted(rows))).hexdigest()
