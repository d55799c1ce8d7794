"""The packs of a store, and where in them each content is.

`catalogue` is a name that can change, with the digests of all packs, a line each. So a store that cannot be
listed, as behind a plain web server, can still be read. The index of a pack is fetched once and kept on this
machine: it never changes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, KeysView
from pathlib import Path
from typing import NamedTuple

from buildstep.errors import StoreError
from buildstep.files import pack
from buildstep.files.interface import Damaged, Missing, Storage
from buildstep.files.layout import CATALOGUE, is_digest, pack_name
from buildstep.files.parallel import parallel
from buildstep.system.files import atomic_write
from buildstep.system.private import private_dir

_HEAD = b"buildstep-packs 1\n"


class Packed(NamedTuple):
    """Where a content is: the pack's digest, and its row there."""

    pack: str
    row: pack.Row


class Catalogue:
    """What the packs hold, loaded when it is first asked for.

    kept: a directory of this machine for their indexes, None: keep none; without: digests of packs that are
    taken for absent until `load` says otherwise.
    """

    def __init__(self, storage: Storage, kept: Path | None, *, without: Collection[str] = ()) -> None:
        self._storage = storage
        self._kept = kept
        self._without = without
        self.indexes: dict[str, pack.Index] = {}
        self._found: dict[str, str] = {}
        """Content to the pack that has it."""
        self._loaded = False

    def load(self, *, without: Collection[str] = ()) -> None:
        """Read what packs there are now, and the indexes of those that are not known yet.

        without: digests of packs that are taken for absent. Raises StoreError.
        """
        packs = [digest for digest in read(self._storage) if digest not in without]
        fresh = [digest for digest in packs if digest not in self.indexes]
        known = {digest: self.indexes[digest] for digest in packs if digest in self.indexes}
        indexes = parallel(self._index, fresh, self._storage.at_once)
        known |= {digest: index for digest, index in zip(fresh, indexes, strict=True) if index is not None}
        if fresh or len(known) != len(self.indexes) or not self._loaded:
            self.indexes = known
            self._found = {}
            for name, index in known.items():
                self._found |= dict.fromkeys(index.rows, name)
        self._loaded = True

    def find(self, digest: str) -> Packed | None:
        """Return where a content is, None if it is in no pack. Raises StoreError."""
        if not self._loaded:
            self.load(without=self._without)
        if (name := self._found.get(digest)) is None:
            return None
        return Packed(name, self.indexes[name].rows[digest])

    def packs_of(self, digests: Iterable[str]) -> tuple[set[str], set[str]]:
        """Return the packs that hold these contents, and the contents that are in none. Raises StoreError."""
        wanted = set(digests)
        others = wanted - self.digests()
        return {self._found[digest] for digest in wanted - others}, others

    def digests(self) -> KeysView[str]:
        """Return the contents that are in packs. Raises StoreError."""
        if not self._loaded:
            self.load(without=self._without)
        return self._found.keys()

    def add(self, written: Iterable[pack.Written]) -> None:
        """Add packs that are stored: from now on everybody finds what is in them. Raises StoreError."""
        new = {one.digest: one.index for one in written}
        change(self._storage, add=new)
        self.indexes.update(new)
        for name, index in new.items():
            self._found |= dict.fromkeys(index.rows.keys() - self._found.keys(), name)

    def _index(self, digest: str) -> pack.Index | None:
        """Return the index of a pack; None for a pack that was deleted meanwhile."""
        name = pack_name(digest)
        kept = None if self._kept is None or self._storage.root is not None else self._kept / digest
        if kept is not None:
            with contextlib.suppress(OSError, StoreError):
                data = kept.read_bytes()
                return pack.read_index(lambda count: data[-count:])
        try:
            tail = b""

            def read_tail(count: int) -> bytes:
                nonlocal tail
                tail = self._storage.read(name, -count)
                return tail

            index = pack.read_index(read_tail)
        except Missing:
            return None
        except pack.DamagedPack as error:
            raise Damaged(f"{self._storage.url}: {name}: {error}", name=name) from error
        if kept is not None:
            with contextlib.suppress(OSError):
                private_dir(kept.parent)
                with atomic_write(kept, durable=False) as stream:
                    stream.write(tail)
        return index


def read(storage: Storage) -> list[str]:
    """Return the digests of all packs. Raises StoreError."""
    there = storage.load(CATALOGUE)
    return [] if there is None else _parse(storage, there.data)


def change(storage: Storage, *, add: Collection[str] = (), remove: Collection[str] = ()) -> None:
    """Add packs to the catalogue, and take others off it. Raises StoreError."""
    while True:
        there = storage.load(CATALOGUE)
        before = [] if there is None else _parse(storage, there.data)
        after = sorted({*before, *add} - set(remove))
        if after == before:
            return
        data = _HEAD + b"".join(digest.encode() + b"\n" for digest in after)
        if storage.swap(CATALOGUE, data, there.version if there else None):
            return
        time.sleep(0.01)


def rebuild(storage: Storage, packs: Collection[str]) -> None:
    """Make the catalogue anew, of these packs and those that were stored meanwhile. Raises StoreError."""
    there = storage.load(CATALOGUE)
    if there is not None:
        try:
            before = _parse(storage, there.data)
        except StoreError:
            storage.swap(CATALOGUE, None, there.version)
        else:
            gone = [digest for digest in before if not storage.exists([pack_name(digest)])]
            change(storage, remove=gone)
    change(storage, add=packs)


def _parse(storage: Storage, data: bytes) -> list[str]:
    rows = data.decode("ascii", "replace").splitlines()
    if not data.startswith(_HEAD) or not all(map(is_digest, rows[1:])):
        raise StoreError(
            f"the {CATALOGUE} of {storage.url} cannot be read",
            hint="`buildstep files verify --repair` makes it again from the packs",
        )
    return rows[1:]


def frames(
    storage: Storage, digest: str, index: pack.Index, wanted: Iterable[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield (digest, bytes), unchecked, of contents of a pack. Raises StoreError."""
    name = pack_name(digest)

    def read_frame(frame: pack.Frame) -> bytes:
        return storage.read(name, frame.offset, frame.stored)

    try:
        yield from pack.contents(index, read_frame, wanted)
    except pack.DamagedPack as error:
        raise Damaged(f"{storage.url}: {name}: {error}", name=name) from error
