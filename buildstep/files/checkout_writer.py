"""Make the entries of a list in a directory, by descriptors: nothing is written through a link.

In a tree that is still aside everything is made under its own name. In a tree that people use it is made in a
private directory in it, finished, and renamed to its place: nobody sees half of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from buildstep.errors import StoreError
from buildstep.files.checkout_options import Report
from buildstep.system.beneath import Beneath, exchange
from buildstep.system.files import GRAIN, write_all, write_sparse
from buildstep.system.text import shown_path
from buildstep.tree.entry import TYPE_BITS, Entry

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC
_REFUSED = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP)
"""How a kernel refuses what this user may not do, or this file system does not know."""
_OF_KIND = {"l": "symbolic links", "c": "devices", "b": "devices", "p": "fifos", "s": "sockets"}
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)

Owner = tuple[int, int]
Spot = tuple[int, bytes]
"""An open directory, and a name in it."""
Fill = Callable[[int], None]
"""Writes the content of a new file to a descriptor, which is open for reading as well."""


def cannot(path: bytes, error: OSError) -> StoreError:
    """Return the error for a path of the tree that could not be made."""
    return StoreError(f"cannot write {shown_path(path)}: {error.strerror}")


def private(fd: int) -> Owner:
    """Make a new directory one that passes nothing on to what is made in it; return who owns that then."""
    os.chmod(fd, 0o700)  # without the setgid bit of the directory above
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        with contextlib.suppress(OSError):
            os.removexattr(fd, name)
    probe = os.open(b".probe", _NEW, 0o600, dir_fd=fd)
    try:
        info = os.fstat(probe)
    finally:
        os.close(probe)
        os.unlink(b".probe", dir_fd=fd)
    return info.st_uid, info.st_gid


class Writer:
    """Makes entries. staging: a private directory in the tree, None where all of the tree is private.

    born: the owner that a new file has. Methods raise StoreError for what cannot be made; what this user or
    file system cannot have is left out, and counted in the report.
    """

    def __init__(self, tree: Beneath, staging: int | None, born: Owner, report: Report) -> None:
        self.tree = tree
        self.report = report
        self._staging = staging
        self._born = born
        self._groups = {os.getegid(), *os.getgroups()}
        self._count = 0
        self._absent: set[bytes] = set()

    # -- where -----------------------------------------------------------------------------------------

    def _spot(self, path: bytes) -> Spot:
        if self._staging is None:
            return self.place(path)
        self._count += 1
        return self._staging, b"%d" % self._count

    def place(self, path: bytes) -> Spot:
        """Return the directory of a path, opened, and its name there. Raises OSError."""
        folder, _, name = path.rpartition(b"/")
        return self.tree.folder(folder), name

    def _settle(self, path: bytes, spot: Spot) -> None:
        """Give what is finished its name; what had it is in the private directory then, or gone."""
        if self._staging is None:
            return
        folder, name = self.place(path)
        try:
            os.rename(spot[1], name, src_dir_fd=spot[0], dst_dir_fd=folder)
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            exchange(*spot, folder, name)
            self.tree.forget()

    # -- making ----------------------------------------------------------------------------------------

    def folder(self, entry: Entry) -> None:
        """Make a directory that only we may enter, until `finish_folder`."""
        try:
            spot = self._spot(entry.path)
            os.mkdir(spot[1], 0o700, dir_fd=spot[0])
            self._settle(entry.path, spot)
        except OSError as error:
            raise cannot(entry.path, error) from error
        self.report.entries += 1

    def file(self, entry: Entry, fill: Fill) -> None:
        """Make a regular file; what `fill` raises goes through."""
        try:
            spot = self._spot(entry.path)
            fd = os.open(spot[1], _NEW, 0o600, dir_fd=spot[0])
            try:
                fill(fd)
                self._finish(entry, fd, self._born)
            finally:
                os.close(fd)
            self._settle(entry.path, spot)
        except OSError as error:
            raise cannot(entry.path, error) from error
        self.report.files += 1
        self.report.size += entry.size

    def data(self, entry: Entry, data: bytes) -> None:
        """Make a regular file of a content that is in memory."""

        def fill(fd: int) -> None:
            if len(data) < GRAIN:
                write_all(fd, data)
            else:
                write_sparse(fd, data)
                os.ftruncate(fd, len(data))

        self.file(entry, fill)

    def other(self, entry: Entry) -> None:
        """Make a symbolic link, a fifo, a socket or a device."""
        try:
            spot = self._spot(entry.path)
            if not self._node(entry, spot):
                self._absent.add(entry.path)
                self.report.left_out[_OF_KIND[entry.kind]] += 1
                return
            self._finish_at(entry, spot, self._born)
            self._settle(entry.path, spot)
        except OSError as error:
            raise cannot(entry.path, error) from error
        self.report.entries += 1

    def _node(self, entry: Entry, spot: Spot) -> bool:
        try:
            if entry.kind == "l":
                os.symlink(entry.target, spot[1], dir_fd=spot[0])
            else:
                kind = TYPE_BITS[entry.kind]
                os.mknod(spot[1], kind | 0o600, os.makedev(*entry.rdev), dir_fd=spot[0])
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            return False
        return True

    def link(self, entry: Entry) -> None:
        """Make a later member of a hard-link group, whose first is there."""
        if entry.first in self._absent:
            self.report.left_out[_OF_KIND[entry.kind]] += 1
            return
        try:
            self.link_from(self.place(entry.first), entry.path)
        except OSError as error:
            raise cannot(entry.path, error) from error
        self.report.entries += 1

    def link_from(self, source: Spot, path: bytes) -> None:
        """Give a file that is somewhere else this path as well. Raises OSError."""
        spot = self._spot(path)
        os.link(source[1], spot[1], src_dir_fd=source[0], dst_dir_fd=spot[0], follow_symlinks=False)
        self._settle(path, spot)

    # -- owner, mode, attributes, time -----------------------------------------------------------------

    def finish_folder(self, entry: Entry, drop: tuple[bytes, ...] = ()) -> None:
        """Set all of a directory in which everything is done. drop: attributes that it has and must not."""
        try:
            target = b"/proc/self/fd/%d" % self.tree.folder(entry.path)
            info = os.stat(target)
            self._drop(target, drop)
            self._finish(entry, target, (info.st_uid, info.st_gid))
        except OSError as error:
            raise cannot(entry.path, error) from error

    def touch(self, entry: Entry, present: Owner, drop: tuple[bytes, ...] = ()) -> None:
        """Set all but the content of something that is there. present: its owner; drop: as above."""
        try:
            self._finish_at(entry, self.place(entry.path), present, drop)
        except OSError as error:
            raise cannot(entry.path, error) from error
        self.report.changed += 1

    def loosen(self, path: bytes) -> None:
        """Let us write in a directory of ours that nobody may write in; it is finished anew later."""
        target = b"/proc/self/fd/%d" % self.tree.folder(path)
        mode = stat.S_IMODE(os.stat(target).st_mode)
        if mode & 0o300 != 0o300:
            with contextlib.suppress(PermissionError):
                os.chmod(target, mode | 0o700)

    def _finish_at(self, entry: Entry, spot: Spot, present: Owner, drop: tuple[bytes, ...] = ()) -> None:
        if entry.kind == "l":
            target = b"/proc/self/fd/%d/%s" % spot
            self._drop(target, drop, follow=False)
            self._finish(entry, target, present, follow=False)
            return
        # Opened so, a device is not started, and a pipe not waited for.
        fd = os.open(spot[1], _HANDLE, dir_fd=spot[0])
        try:
            target = b"/proc/self/fd/%d" % fd
            self._drop(target, drop)
            self._finish(entry, target, present)
        finally:
            os.close(fd)

    def _drop(self, target: bytes, names: tuple[bytes, ...], *, follow: bool = True) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                os.removexattr(target, name, follow_symlinks=follow)

    def _finish(self, entry: Entry, target: int | bytes, present: Owner, *, follow: bool = True) -> None:
        """In this order, as a new owner drops setuid and capabilities."""
        mode = entry.mode
        if (entry.uid, entry.gid) != present:
            mode &= ~self._own(entry, target, present, follow=follow)
        if follow:
            os.chmod(target, mode)
        for name, value in entry.xattrs:
            try:
                os.setxattr(target, name, value, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                self.report.left_out[f"{os.fsdecode(name.partition(b'.')[0])} attributes"] += 1
        os.utime(target, ns=(entry.mtime, entry.mtime), follow_symlinks=follow)

    def _own(self, entry: Entry, target: int | bytes, present: Owner, *, follow: bool) -> int:
        """Set the owner; return those bits of the mode that would be dangerous with the one that it has."""
        uid, gid = entry.uid, entry.gid
        try:
            os.chown(target, uid, gid, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
        else:
            return 0
        grouped = gid == present[1]
        if not grouped and gid in self._groups:
            with contextlib.suppress(OSError):
                os.chown(target, -1, gid, follow_symlinks=follow)
                grouped = True
        self.report.left_out["owners"] += 1
        if entry.kind == "d":
            return 0
        risky = (0o4000 if uid != present[0] else 0) | (0 if grouped else 0o2000)
        if entry.mode & risky:
            self.report.left_out["setuid and setgid bits"] += 1
        return risky
