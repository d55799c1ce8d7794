"""Bring the contents of a checkout from a store into its files, each content read once, in the best order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial

from buildstep.errors import StoreError
from buildstep.files import chunks, layout
from buildstep.files.checkout_farm import Farm
from buildstep.files.checkout_options import Report
from buildstep.files.checkout_writer import Fill, Writer
from buildstep.files.content import ContentStore, Place
from buildstep.files.interface import Damaged, Missing
from buildstep.report.progress import Advance
from buildstep.system.digest import sha256_fd
from buildstep.system.files import CHUNK, clone, copy_range, data_extents, write_sparse
from buildstep.system.text import plural, shown_path
from buildstep.tree.entry import Entry

_IN_MEMORY = CHUNK
"""Bytes of a content up to which it is read whole, with many others at once."""


class Contents:
    """Writes files. farm: where files are shared between checkouts, None: they are not. advance: is told of
    each file."""

    def __init__(
        self, store: ContentStore, writer: Writer, report: Report, farm: Farm | None, advance: Advance
    ) -> None:
        self._advance = advance
        self._store = store
        self._writer = writer
        self._report = report
        self._farm = farm
        self._clones = store.storage.root is not None

    def write(self, files: Iterable[Entry], places: dict[str, Place]) -> None:
        """Make these files, verified. places: of their contents, see `locate`. Raises StoreError, OSError."""
        by_digest: dict[str, list[Entry]] = {}
        for entry in files:
            if self._farm is not None and self._farm.take(entry, self._writer):
                self._report.files += 1
                self._report.size += entry.size
                self._report.shared += 1
                self._advance(1, entry.size)
            elif not entry.size:
                self._data([entry], b"")
            else:
                by_digest.setdefault(entry.sha256, []).append(entry)
        small: list[str] = []
        large: list[str] = []
        for digest, entries in by_digest.items():
            if self._clones and _is_plain(places[digest]) and self._clone(digest, entries):
                continue
            whole = entries[0].size <= _IN_MEMORY and places[digest].form != layout.CHUNKS
            (small if whole else large).append(digest)
        for digest, data in self._store.get_many(small):
            self._data(by_digest[digest], data)
        for digest in large:
            self._stream(digest, by_digest[digest])

    def _data(self, entries: Sequence[Entry], data: bytes) -> None:
        for entry in entries:
            check_size(entry, len(data))
            self._writer.data(entry, data)
            self._made(entry)

    def _stream(self, digest: str, entries: Sequence[Entry]) -> None:
        """Make files of a content that does not fit into memory."""

        def fill(fd: int) -> None:
            size = self._store.write_to(digest, fd, write=write_sparse)
            check_size(entries[0], size)
            os.ftruncate(fd, size)

        self._copies(entries, fill)

    def _clone(self, digest: str, entries: Sequence[Entry]) -> bool:
        """Make files that share their blocks with the store's; return False where there is nothing to share.

        What is hashed is the copy: nobody can change it any more.
        """
        assert self._store.storage.root is not None
        name = layout.object_name(digest)
        try:
            source = os.open(self._store.storage.root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False  # whoever reads it next tells why

        def share(fd: int) -> None:
            if not clone(source, fd):
                self._clones = False
                self._store.write_to(digest, fd, write=write_sparse)
                os.ftruncate(fd, entries[0].size)
            elif sha256_fd(fd) != digest:
                raise Damaged(f"{self._store.storage.url}: {name} is damaged", name=name)

        try:
            check_size(entries[0], os.fstat(source).st_size)
            self._copies(entries, share)
        finally:
            os.close(source)
        self._report.shared += len(entries) if self._clones else 0
        return True

    def _copies(self, entries: Sequence[Entry], fill: Fill) -> None:
        """Make a file of a content, and the others by copying that one."""
        first, *others = entries
        kept = -1

        def keep(fd: int) -> None:
            nonlocal kept
            fill(fd)
            if others:
                kept = os.dup(fd)

        try:
            self._writer.file(first, keep)
            self._made(first)
            for entry in others:
                self._writer.file(entry, partial(_copy, kept, entry.size))
                self._made(entry)
        finally:
            if kept >= 0:
                os.close(kept)

    def _made(self, entry: Entry) -> None:
        self._advance(1, entry.size)
        if self._farm is not None:
            self._farm.give(entry, self._writer)


def locate(store: ContentStore, files: Iterable[Entry]) -> dict[str, Place]:
    """Return where the contents of these files are; those of empty files are not looked for.

    Raises Missing where the store lacks any, StoreError where the list says another size than the store.
    """
    sizes = {entry.sha256: entry for entry in files if entry.size}
    found = store.find(sizes)
    if len(found) < len(sizes):
        store.refresh()
        found = store.find(sizes)
    lacking = [entry for digest, entry in sizes.items() if digest not in found]
    if lacking:
        names = ", ".join(shown_path(entry.path) for entry in lacking[:5])
        raise Missing(
            f"{store.storage.url} lacks {plural(len(lacking), 'content')} of this list",
            detail=f"  {names}" + (" and others" if len(lacking) > 5 else ""),
            hint="`buildstep files verify --repair-from STORE` gets them from another store",
        )
    for digest, place in found.items():
        if place.row is not None:
            check_size(sizes[digest], place.row.length)
    return found


def least_size(store: ContentStore, files: Iterable[Entry], places: dict[str, Place]) -> int:
    """Return the bytes that these files certainly take: of one made of chunks those of each chunk once, as it
    may be of zeros for the most part. Raises StoreError."""
    total = 0
    for entry in files:
        if entry.size and places[entry.sha256].form == layout.CHUNKS:
            recipe = store.storage.read(layout.object_name(entry.sha256, layout.CHUNKS))
            total += sum({piece.digest: piece.size for piece in chunks.parse(recipe).pieces}.values())
        else:
            total += entry.size
    return total


def check_size(entry: Entry, size: int) -> None:
    """Raise StoreError where the content of a file has another size than the list says."""
    if size != entry.size:
        raise StoreError(
            f"{shown_path(entry.path)} has {entry.size} bytes by the list, but its content has {size}",
            hint="the list is wrong; who made it?",
        )


def _is_plain(place: Place) -> bool:
    return not place.pack and place.form == layout.PLAIN


def _copy(source: int, size: int, target: int) -> None:
    """Copy a file that was verified, with its holes; blocks are shared where they can be."""
    if clone(source, target):
        return
    for offset, length in data_extents(source, size):
        os.lseek(source, offset, os.SEEK_SET)
        os.lseek(target, offset, os.SEEK_SET)
        copy_range(source, target, length)
    os.ftruncate(target, size)
