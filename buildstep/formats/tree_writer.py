"""Write entries into a private directory: content, links, owners, modes, attributes and times."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

from buildstep.errors import ImageError
from buildstep.events import Bus
from buildstep.formats.decompress import Decompressed
from buildstep.system.accounts import TABLES, number_of
from buildstep.system.files import CHUNK, GRAIN, Extents, write_sparse
from buildstep.system.remove import remove_tree
from buildstep.system.root import Root
from buildstep.system.text import shown
from buildstep.system.userns import in_user_namespace
from buildstep.tree.entry import TYPE_BITS, Entry, FileList
from buildstep.tree.hashing import ContentHash
from buildstep.tree.scan import plain_mode

_ACCESS_ACL = "system.posix_acl_access"
_DEFAULT_ACL = "system.posix_acl_default"


class EntryWriter(Protocol):
    """What an extraction gives its entries to, checked and in the order of the archive."""

    def directory(self, entry: Entry, *, exists: bool) -> None: ...

    def file(self, entry: Entry, extents: Extents, source: Decompressed) -> None: ...

    def link(self, entry: Entry, leader: bytes) -> None: ...

    def other(self, entry: Entry) -> None: ...

    def remove(self, path: bytes) -> None: ...

    def finish_in_place(self, entry: Entry) -> None: ...

    def number_of(self, what: str, name: str) -> int | None: ...

    def finish_hashes(self) -> None: ...

    def cancel_hashes(self) -> None: ...


class TreeWriter:
    """Writes entries into a directory, and hashes the files on the way.

    entries: what is there by now, which the caller keeps. privileged: set owners, device nodes and all
    attributes. Otherwise files get u+rw, directories u+rwx, and devices are left out.
    """

    def __init__(self, into: Path, entries: FileList, *, privileged: bool, bus: Bus | None) -> None:
        self._top = os.fsencode(into)
        self._entries = entries
        self._privileged = privileged
        self._nodes = privileged and not in_user_namespace()
        self._bus = bus
        self._late: list[tuple[Entry, ContentHash]] = []
        self._lost_xattrs: set[bytes] = set()

    def full(self, path: bytes) -> bytes:
        """Return where a path of the tree is on this host."""
        return self._top + b"/" + path if path else self._top

    def finish_hashes(self) -> None:
        """Wait for the files that are still being hashed, and fill in their digests."""
        while self._late:
            entry, content = self._late.pop()
            entry.sha256 = content.finish()

    def cancel_hashes(self) -> None:
        """Stop hashing; what was hashed already stays."""
        for _, content in self._late:
            content.cancel()

    def link(self, entry: Entry, leader: bytes) -> None:
        """Make a hard link to the path `leader`, which is there already."""
        if entry.kind not in "cb" or self._nodes:
            os.link(self.full(leader), self.full(entry.path), follow_symlinks=False)

    def file(self, entry: Entry, extents: Extents, source: Decompressed) -> None:
        """Make a regular file with content from `source`. Raises ImageError where that ends too early."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.full(entry.path), flags, 0o600)
        try:
            content = ContentHash(entry.size)
            self._late.append((entry, content))
            position = 0
            for offset, length in extents:
                content.zeros(offset - position)
                if offset != position:
                    os.lseek(fd, offset, os.SEEK_SET)
                position = offset + length
                while length:
                    chunk = source.read(min(length, CHUNK))
                    if not chunk:
                        raise ImageError(f"the archive ends inside of {shown(entry.path)}")
                    content.update(chunk)
                    write_sparse(fd, chunk)
                    length -= len(chunk)  # noqa: PLW2901
            content.zeros(entry.size - position)
            if position < entry.size or entry.size >= GRAIN:  # it may end with a hole, of the map or of ours
                os.ftruncate(fd, entry.size)
            if not content.behind:
                self._late.pop()
                entry.sha256 = content.finish()
            self.finish(entry, fd)
        finally:
            os.close(fd)

    def directory(self, entry: Entry, *, exists: bool) -> None:
        """Make a directory, or make an existing one writable. The caller calls `finish` in the end: earlier,
        a default ACL would pass to what is made inside."""
        if not exists:
            os.mkdir(self.full(entry.path), 0o700)
            self._drop_inherited_acl(entry, self.full(entry.path))
        elif not self._privileged:
            os.chmod(self.full(entry.path), 0o700)

    def other(self, entry: Entry) -> None:
        """Make a symbolic link, a fifo or a device node; the last only where that is possible."""
        full = self.full(entry.path)
        if entry.kind == "l":
            os.symlink(entry.target, full)
        elif entry.kind == "p":
            os.mkfifo(full, 0o600)
        elif self._nodes:
            os.mknod(full, TYPE_BITS[entry.kind] | 0o600, os.makedev(*entry.rdev))
        else:
            return
        self.finish(entry, full)

    def finish(self, entry: Entry, target: int | bytes) -> None:
        """Set owner, mode, attributes, time; in this order, as a new owner drops setuid and capabilities."""
        link = entry.kind == "l"
        follow = isinstance(target, int)
        if not link:
            self._drop_inherited_acl(entry, target)
        if self._privileged:
            os.chown(target, entry.uid, entry.gid, follow_symlinks=follow)
        if not link:
            # Without privileges no setuid for the builder's own user; the entries have the true mode.
            os.chmod(target, entry.mode if self._privileged else plain_mode(entry))
        for name, value in entry.xattrs:
            if self._privileged or name.startswith(b"user."):
                self._set_xattr(target, name, value, follow=follow)
        os.utime(target, ns=(entry.mtime, entry.mtime), follow_symlinks=follow)

    def finish_in_place(self, entry: Entry) -> None:
        """Do what `finish` does to what is in the directory at an entry's path."""
        full = self.full(entry.path)
        if entry.kind != "d" or stat.S_ISDIR(os.lstat(full).st_mode):
            self.finish(entry, full)

    def remove(self, path: bytes) -> None:
        """Remove what is at a path, with all below it."""
        remove_tree(os.fsdecode(self.full(path)))

    def number_of(self, what: str, name: str) -> int | None:
        """Return the number of a user or group by the tables that were written; see `system.accounts`."""
        return number_of(what, name, Root(Path(os.fsdecode(self._top))))

    def _set_xattr(self, target: int | bytes, name: bytes, value: bytes, *, follow: bool) -> None:
        try:
            os.setxattr(target, name, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
                raise
            space = name.partition(b".")[0]
            if self._bus is not None and space not in self._lost_xattrs:
                self._bus.note(
                    f"this host's file system does not keep {os.fsdecode(space)}.* attributes;"
                    " the image does",
                    level="warning",
                )
            self._lost_xattrs.add(space)

    def _drop_inherited_acl(self, entry: Entry, target: int | bytes) -> None:
        """Remove what a directory of a lower layer passes on to everything that is made in it."""
        parent = self._entries.get(entry.path.rpartition(b"/")[0])
        if parent is None or not entry.path:
            return
        if any(name == _DEFAULT_ACL.encode() for name, _ in parent.xattrs):
            for name in (_ACCESS_ACL, _DEFAULT_ACL):
                with contextlib.suppress(OSError):
                    os.removexattr(target, name)


class Lister:
    """Writes nothing: an archive is only listed, its files hashed, and the contents of some of them kept.

    keep: says by its path whether a file's content is wanted; one of more than `largest` bytes is not kept.
    Those of the tables of users and groups are needed here.
    """

    def __init__(self, keep: Callable[[bytes], bool], *, largest: int = 64 << 20) -> None:
        self._keep, self._largest = keep, largest
        self._contents: dict[str, bytes] = {}
        self._entries: FileList = {}
        self._hashing: ContentHash | None = None

    def over(self, entries: FileList) -> Self:
        """Begin an archive, or the next layer, on these entries, which the caller keeps."""
        self._entries = entries
        return self

    def content(self, entry: Entry) -> bytes | None:
        """Return the content of a file, if it was kept."""
        return self._contents.get(entry.sha256)

    def directory(self, entry: Entry, *, exists: bool) -> None:
        """Do nothing; nor for what else is no file."""

    def link(self, entry: Entry, leader: bytes) -> None: ...

    def other(self, entry: Entry) -> None: ...

    def remove(self, path: bytes) -> None: ...

    def finish_in_place(self, entry: Entry) -> None: ...

    def finish_hashes(self) -> None: ...

    def file(self, entry: Entry, extents: Extents, source: Decompressed) -> None:
        """Hash a file's content. Raises ImageError where `source` ends too early."""
        kept = bytearray() if self._wanted(entry) else None
        self._hashing = content = ContentHash(entry.size)
        position = 0
        for offset, length in extents:
            content.zeros(offset - position)
            if kept is not None:
                kept.extend(bytes(offset - position))
            position = offset + length
            while length:
                chunk = source.read(min(length, CHUNK))
                if not chunk:
                    raise ImageError(f"the archive ends inside of {shown(entry.path)}")
                content.update(chunk)
                if kept is not None:
                    kept.extend(chunk)
                length -= len(chunk)  # noqa: PLW2901
        content.zeros(entry.size - position)
        entry.sha256 = content.finish()
        if kept is not None:
            self._contents[entry.sha256] = bytes(kept) + bytes(entry.size - position)

    def _wanted(self, entry: Entry) -> bool:
        table = os.fsdecode(entry.path) in TABLES.values()
        return entry.size <= self._largest and (table or self._keep(entry.path))

    def cancel_hashes(self) -> None:
        """Stop hashing."""
        if self._hashing is not None:
            self._hashing.cancel()

    def number_of(self, what: str, name: str) -> int | None:
        """Return the number of a user or group by the tables of the tree; see `system.accounts`."""
        return number_of(what, name, self)

    def read(self, path: str) -> bytes:
        """Return the content of a table, no link followed. Raises FileNotFoundError."""
        entry = self._entries.get(os.fsencode(path.lstrip("/")))
        data = None if entry is None else self.content(entry)
        if data is None:
            raise FileNotFoundError(path)
        return data
