"""Files that checkouts share by hard links: `links/ab/<62 hex>` in a store that is a directory.

Such a file is named by the SHA-256 of all that its inode has: owner, mode, attributes, time and the digest of
its content; and of a number, so that of two equal files of one tree each has an inode of its own, as the list
says. It is never the store's own object: whoever writes to it spoils checkouts, but not the store. One that
is linked nowhere else is removed by the garbage collection.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections import Counter

from buildstep.errors import StoreError, UsageError
from buildstep.files.checkout_writer import Writer
from buildstep.files.content import ContentStore
from buildstep.files.layout import LINKS, link_name
from buildstep.files.real_folders import RealFolders
from buildstep.system.digest import sha256_file
from buildstep.tree.entry import Entry
from buildstep.tree.scan import read_xattrs

_NOT_LINKED = (errno.EMLINK, errno.ENOENT, errno.EPERM, errno.EEXIST, errno.EXDEV)


class Farm:
    """The shared files of a store. thorough: read a file before it is shared again.

    Raises UsageError where the store is elsewhere or not ours, OSError.
    """

    def __init__(self, store: ContentStore, beside: int, *, thorough: bool = False) -> None:
        """beside: a descriptor of the directory that is checked out to, on the same file system."""
        root = store.storage.root
        if root is None or os.stat(root).st_dev != os.fstat(beside).st_dev:
            raise UsageError(
                f"no file can be linked from {store.storage.url}: it is on another file system",
                hint="check out without --hardlink, or to a directory on the file system of the store",
            )
        if not store.storage.writable:
            raise UsageError(
                f"the store {store.storage.url} is not yours to write to",
                hint="check out without --hardlink",
            )
        self._top = os.fsencode(root) + b"/"
        self._thorough = thorough
        self._times: Counter[bytes] = Counter()
        self._names: dict[bytes, bytes] = {}
        self._folders: set[bytes] = set()

    def take(self, entry: Entry, writer: Writer) -> bool:
        """Make a file of the tree a link to a shared one; return False where there is none that is good."""
        path = self._path(entry)
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            return False
        if not self._is_good(path, info, entry):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return False
        try:
            writer.link_from((writer.tree.fd, path), entry.path)
        except OSError as error:
            if error.errno not in _NOT_LINKED:
                raise
            return False
        return True

    def give(self, entry: Entry, writer: Writer) -> None:
        """Share a file of the tree that is finished. Where it cannot be shared, it is the tree's alone."""
        path = self._path(entry)
        folder, name = writer.place(entry.path)
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        # What this user or file system cannot have is not what the name says.
        if (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) != (entry.uid, entry.gid, entry.mode):
            return
        above = os.path.dirname(path)
        if above not in self._folders:
            os.makedirs(above, 0o755, exist_ok=True)
            self._folders.add(above)
        try:
            os.link(name, path, src_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NOT_LINKED:
                raise

    def _path(self, entry: Entry) -> bytes:
        """Return the path of the shared file that an entry is to be; the same for each call with it."""
        path = self._names.get(entry.path)
        if path is None:
            key = _key(entry)
            number = self._times[key]
            self._times[key] += 1
            digest = hashlib.sha256(b"%s%d" % (key, number)).hexdigest()
            path = self._names[entry.path] = self._top + link_name(digest).encode()
        return path

    def _is_good(self, path: bytes, info: os.stat_result, entry: Entry) -> bool:
        there = (info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns)
        wanted = (stat.S_IFREG | entry.mode, entry.uid, entry.gid, entry.size, entry.mtime)
        if there != wanted or read_xattrs(path) != entry.xattrs:
            return False
        return not self._thorough or sha256_file(os.fsdecode(path)) == entry.sha256


def _key(entry: Entry) -> bytes:
    """Return all that an inode has, but its path: the digest of its content and the rest."""
    told = (entry.mode, entry.uid, entry.gid, entry.size, entry.sha256.encode(), entry.mtime)
    xattrs = b"".join(b"%d:%s=%d:%s" % (len(name), name, len(value), value) for name, value in entry.xattrs)
    return b"%o %d %d %d %s %d %s\n" % (*told, xattrs)


def sweep_links(store: ContentStore, *, dry_run: bool = False) -> tuple[int, int]:
    """Remove the shared files that no checkout has any more; return how many, and their bytes.

    A checkout that wants one at this moment makes it anew. Raises StoreError.
    """
    root = store.storage.root
    if root is None:
        return 0, 0
    count = size = 0
    folders = RealFolders(root)
    try:
        folders.check(LINKS.removesuffix("/"))
        for folder in sorted((root / LINKS).glob("??")):
            if not folders.check(LINKS + folder.name):
                continue
            for item in os.scandir(folder):
                info = item.stat(follow_symlinks=False)
                if info.st_nlink == 1 and stat.S_ISREG(info.st_mode):
                    count, size = count + 1, size + info.st_size
                    if not dry_run:
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(item.path)
    except OSError as error:
        raise StoreError(f"cannot sweep {root / LINKS}: {error.strerror}") from error
    return count, size
