"""What is to be done so that a directory is as a list says: all of it, or only what differs."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from buildstep.errors import Fault, UsageError
from buildstep.files.checkout_options import Options, Report
from buildstep.files.checkout_writer import Owner
from buildstep.system.beneath import Beneath
from buildstep.system.digest import sha256_fd
from buildstep.system.text import shown_path
from buildstep.tree.entry import KINDS, Entry, FileList, Xattrs
from buildstep.tree.scan import heal_groups, read_xattrs

STAGING = b".buildstep-get-"
"""How the private directories of checkouts begin."""

_LIST = os.O_RDONLY | os.O_DIRECTORY
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_OWN = b"user.", b"system.posix_acl"
"""Attributes that a user may set on what is his."""


@dataclass(slots=True)
class Plan:
    """Entries to make, in order. touch: what stays, and of which all but the content is to be set: with its
    owner and the attributes that it must not have. finish: directories to set all of, with such attributes;
    extra: paths that are not in the list, without what is below them; faults: why nothing can be done."""

    folders: list[Entry] = field(default_factory=list)
    files: list[Entry] = field(default_factory=list)
    others: list[Entry] = field(default_factory=list)
    links: list[Entry] = field(default_factory=list)
    touch: list[tuple[Entry, Owner, tuple[bytes, ...]]] = field(default_factory=list)
    finish: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    extra: list[bytes] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def make(self, entry: Entry) -> None:
        """Note an entry that is to be made, and the directories that it changes."""
        self.finish.setdefault(entry.path.rpartition(b"/")[0], ())
        if entry.kind == "d":
            self.folders.append(entry)
            self.finish.setdefault(entry.path, ())
        elif entry.first:
            self.links.append(entry)
        elif entry.kind == "f":
            self.files.append(entry)
        else:
            self.others.append(entry)

    @property
    def makes(self) -> bool:
        """Whether anything is to be made."""
        return bool(self.folders or self.files or self.others or self.links)

    @property
    def inodes(self) -> int:
        """How many new ones it takes."""
        return len(self.folders) + len(self.files) + len(self.others)


def subset(entries: FileList, paths: Iterable[str]) -> FileList:
    """Return what of a list is at or below these paths, and the directories that lead there; without paths
    all of it. Raises UsageError for a path that is not in it."""
    wanted = {os.fsencode(path.strip("/")) for path in paths}
    if not wanted or b"" in wanted:
        return entries
    for path in wanted - entries.keys():
        raise UsageError(f"the list has no path {shown_path(path)}")
    above = {path[:at] for path in wanted for at in range(len(path)) if path[at : at + 1] == b"/"}
    below = tuple(path + b"/" for path in wanted)
    found = {
        path: entry
        for path, entry in entries.items()
        if not path or path in wanted or path in above or path.startswith(below)
    }
    heal_groups(found)
    return found


def everything(entries: Iterable[Entry]) -> Plan:
    """Return how a tree is made in an empty directory. entries: sorted by path."""
    plan = Plan()
    for entry in entries:
        if entry.path:
            plan.make(entry)
    plan.finish.setdefault(b"", ())
    return plan


def differing(tree: Beneath, entries: FileList, options: Options, report: Report) -> Plan:
    """Return how a tree that is there becomes as listed. report: takes what this user cannot have, and what
    is right already. Raises OSError."""
    return _Comparison(tree, entries, options, report).run()


class _Comparison:
    def __init__(self, tree: Beneath, entries: FileList, options: Options, report: Report) -> None:
        self._tree, self._entries, self._options, self._report = tree, entries, options, report
        self._plan = Plan()
        self._there: dict[bytes, os.stat_result] = {b"": os.fstat(tree.fd)}
        self._members = Counter(entry.first or entry.path for entry in entries.values())
        self._inodes: dict[tuple[int, int], bytes] = {}
        self._made: set[bytes] = set()
        self._uid = os.geteuid()
        self._groups = {os.getegid(), *os.getgroups()}

    def run(self) -> Plan:
        self._walk()
        for entry in self._entries.values():
            self._compare(entry)
        return self._plan

    # -- what is there -----------------------------------------------------------------------------------

    def _walk(self) -> None:
        pending = [b""]
        while pending:
            folder = pending.pop()
            fd = self._open_folder(folder)
            if fd < 0:
                continue
            try:
                with os.scandir(fd) as listing:
                    for item in listing:
                        name = os.fsencode(item.name)
                        path = folder + b"/" + name if folder else name
                        self._meet(path, item, pending)
            finally:
                os.close(fd)

    def _meet(self, path: bytes, item: os.DirEntry[str], pending: list[bytes]) -> None:
        entry = self._entries.get(path)
        if entry is None:
            if b"/" in path or not path.startswith(STAGING):
                self._plan.extra.append(path)
            return
        info = item.stat(follow_symlinks=False)
        self._there[path] = info
        if not stat.S_ISDIR(info.st_mode):
            return
        if entry.kind == "d":
            pending.append(path)
        elif not self._options.delete and not self._is_empty(path):
            self._fault(path, "is a directory with something in it, in the place of something else",
                        "--delete replaces it")  # fmt: skip

    def _open_folder(self, path: bytes) -> int:
        """Return a descriptor to list a directory; -1, with a fault, where that cannot be."""
        try:
            try:
                return self._tree.open(path, _LIST)
            except PermissionError:
                if self._options.dry_run:
                    raise
            # One of ours that nobody may read: it gets its mode again in the end.
            os.chmod(b"/proc/self/fd/%d" % self._tree.folder(path), 0o700)
            self._plan.finish.setdefault(path, ())
            return self._tree.open(path, _LIST)
        except OSError as error:
            if error.errno == errno.EXDEV:
                self._fault(path, "is a mount point, and nothing is written into it", "unmount it")
            else:
                self._fault(path, f"cannot be read: {error.strerror}")
            return -1

    def _is_empty(self, path: bytes) -> bool:
        fd = self._open_folder(path)
        if fd < 0:
            return True  # a fault by now
        try:
            return not os.listdir(fd)
        finally:
            os.close(fd)

    def _fault(self, path: bytes, message: str, hint: str = "") -> None:
        self._plan.faults.append(Fault(where=shown_path(path), message=message, hint=hint))

    # -- what differs ------------------------------------------------------------------------------------

    def _compare(self, entry: Entry) -> None:
        info = self._there.get(entry.path)
        if info is None or KINDS.get(stat.S_IFMT(info.st_mode)) != entry.kind:
            self._make(entry)
        elif entry.kind == "d":
            drop = self._unlike(entry, info)
            if drop is None:
                self._report.same += 1
            else:
                self._plan.finish[entry.path] = drop
                self._report.changed += 1
        elif not self._is_of_group(entry, info):
            self._make(entry)
        elif entry.first:
            self._report.same += 1  # as its first is
        else:
            self._compare_inode(entry, info)

    def _make(self, entry: Entry) -> None:
        self._made.add(entry.path)
        self._plan.make(entry)

    def _is_of_group(self, entry: Entry, info: os.stat_result) -> bool:
        """Tell whether something is the inode of its hard-link group, and of no other path of the list."""
        inode = info.st_dev, info.st_ino
        if self._inodes.setdefault(inode, entry.first or entry.path) != (entry.first or entry.path):
            return False
        if not entry.first:
            return True
        leader = self._there.get(entry.first)
        return (
            entry.first not in self._made and leader is not None and (leader.st_dev, leader.st_ino) == inode
        )

    def _compare_inode(self, entry: Entry, info: os.stat_result) -> None:
        if not self._same_content(entry, info):
            self._make(entry)
            return
        drop = self._unlike(entry, info)
        if drop is None:
            self._report.same += 1
        elif info.st_nlink != self._members[entry.path]:
            self._make(entry)  # it is linked elsewhere, where nothing is to change
        else:
            self._plan.touch.append((entry, (info.st_uid, info.st_gid), drop))

    def _same_content(self, entry: Entry, info: os.stat_result) -> bool:
        if entry.kind == "l":
            return os.readlink(self._at(entry.path)) == entry.target
        if entry.kind in "cb":
            return info.st_rdev == os.makedev(*entry.rdev)
        if entry.kind != "f" or info.st_size != entry.size:
            return entry.kind != "f"
        if info.st_mtime_ns == entry.mtime and not self._options.check_content:
            return True
        try:
            fd = self._tree.open(entry.path, _READ)
        except PermissionError:
            return False
        try:
            return stat.S_ISREG(os.fstat(fd).st_mode) and sha256_fd(fd) == entry.sha256
        finally:
            os.close(fd)

    def _at(self, path: bytes) -> bytes:
        folder, _, name = path.rpartition(b"/")
        return b"/proc/self/fd/%d/%s" % (self._tree.folder(folder), name or b".")

    def _unlike(self, entry: Entry, info: os.stat_result) -> tuple[bytes, ...] | None:
        """Return None where all but the content is as listed; else the attributes that must go."""
        uid, gid, mode, lost = self._attainable(entry, info)
        wanted, found = entry.xattrs, read_xattrs(self._at(entry.path))
        if self._uid != 0:
            wanted, found = _of_user(wanted), _of_user(found)
            lost += [f"{space} attributes" for space in sorted(_spaces(entry.xattrs) - _spaces(wanted))]
        there = (info.st_uid, info.st_gid, info.st_mtime_ns)
        same_mode = entry.kind == "l" or stat.S_IMODE(info.st_mode) == mode
        if there == (uid, gid, entry.mtime) and same_mode and found == wanted:
            self._report.left_out.update(lost)
            return None
        names = {name for name, _ in wanted}
        return tuple(name for name, _ in found if name not in names)

    def _attainable(self, entry: Entry, info: os.stat_result) -> tuple[int, int, int, list[str]]:
        """Return owner, group and mode that something can have here, and what that lacks."""
        if self._uid == 0 or (info.st_uid, info.st_gid) == (entry.uid, entry.gid):
            return entry.uid, entry.gid, entry.mode, []
        gid = entry.gid if entry.gid in self._groups else info.st_gid
        if (self._uid, gid) == (entry.uid, entry.gid):
            return entry.uid, entry.gid, entry.mode, []
        risky = (0o4000 if entry.uid != self._uid else 0) | (0o2000 if gid != entry.gid else 0)
        if entry.kind == "d" or not entry.mode & risky:
            return self._uid, gid, entry.mode, ["owners"]
        return self._uid, gid, entry.mode & ~risky, ["owners", "setuid and setgid bits"]


def _of_user(xattrs: Xattrs) -> Xattrs:
    return tuple(pair for pair in xattrs if pair[0].startswith(_OWN))


def _spaces(xattrs: Xattrs) -> set[str]:
    return {os.fsdecode(name.partition(b".")[0]) for name, _ in xattrs}
