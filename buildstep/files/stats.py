"""How much a store holds, what each ref has of its own, and what is shared by what."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from buildstep.files import chunks, layout
from buildstep.files.content import ContentStore
from buildstep.files.marks import Inventory, Reach, files_in
from buildstep.files.refs import Ref
from buildstep.tree import entry

LARGEST = 10
"""Contents that are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefStats:
    """A ref. files: with hard links counted once; size: the bytes of these; contents, unique: how many
    different contents it has, and their bytes; own: of these, what no other ref has; shared: the rest."""

    name: str
    files: int
    size: int
    contents: int
    unique: int
    own: int
    shared: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """What two refs share. contents: how many; size: their bytes."""

    first: str
    second: str
    contents: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Large:
    """A large content. ref, path: one place where it is; refs: how many have it."""

    digest: str
    size: int
    ref: str
    path: bytes
    refs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """A store. files: bytes of the files of all refs; contents, unique: how many different contents these
    have, and their bytes; stored: bytes of the blobs; garbage: how many contents no ref reaches, and their
    bytes as they are stored, in packs as they are expanded."""

    files: int
    contents: int
    unique: int
    stored: int
    packs: int
    objects: int
    lists: int
    garbage: int
    garbage_size: int
    refs: tuple[RefStats, ...]
    pairs: tuple[Pair, ...]
    largest: tuple[Large, ...]


def stats(store: ContentStore) -> Stats:
    """Look at a whole store. Raises StoreError, also where a list or a pack is damaged."""
    _ = store.settings
    store.refresh()
    reach = Reach(store)
    refs = sorted(reach.refs(), key=lambda ref: ref.name)
    inventory = Inventory.of(store.storage)
    reach.take_chunks(inventory)
    shares = _Shares(store, inventory, refs)
    packed = store.catalogue.indexes.values()
    garbage = [
        row.length for index in packed for content, row in index.rows.items() if content not in reach.contents
    ]
    garbage += [
        inventory.size(name)
        for content, names in inventory.forms.items()
        if content not in reach.contents
        for name in names
    ]
    blobs = (*inventory.packs.values(), *inventory.objects.values(), *inventory.lists.values())
    return Stats(
        files=sum(row.size for row in shares.refs), contents=len(shares.sizes),
        unique=sum(shares.sizes.values()), stored=sum(item.size for item in blobs),
        packs=len(inventory.packs), objects=len(inventory.objects),
        lists=len(inventory.lists), garbage=len(garbage), garbage_size=sum(garbage), refs=tuple(shares.refs),
        pairs=tuple(shares.pairs()), largest=tuple(shares.largest()),
    )  # fmt: skip


class _Shares:
    """Who has what. The refs that have a content are the bits of a number, so that the few combinations that
    there are can be counted instead of the many contents."""

    def __init__(self, store: ContentStore, inventory: Inventory, refs: list[Ref]) -> None:
        self._store = store
        self._inventory = inventory
        self._names = [ref.name for ref in refs]
        self._lists = [ref.list for ref in refs]
        self.sizes: dict[str, int] = {}
        self._who: dict[str, int] = {}
        counts = [self._take(number, ref) for number, ref in enumerate(refs)]
        self._groups: dict[int, tuple[int, int]] = {}
        """By combination of refs, how many contents just these have, and their bytes."""
        for digest, who in self._who.items():
            count, size = self._groups.get(who, (0, 0))
            self._groups[who] = (count + 1, size + self.sizes[digest])
        self.refs = [
            self._ref(number, ref.name, *counted)
            for number, (ref, counted) in enumerate(zip(refs, counts, strict=True))
        ]

    def _take(self, number: int, ref: Ref) -> tuple[int, int]:
        """Take in a ref; return how many files it has, and their bytes."""
        files = files_in(self._store.read_list(ref.list), linked=False) if ref.list else []
        files += [(digest, self.sizes.get(digest) or self._size(digest)) for digest in ref.contents]
        bit = 1 << number
        who = self._who
        for digest, _ in files:
            who[digest] = who.get(digest, 0) | bit
        self.sizes.update(files)
        return len(files), sum(size for _, size in files)

    def _size(self, digest: str) -> int:
        """Return the size of a content that no list tells; 0 if it is not there."""
        place = self._store.find([digest]).get(digest)
        if place is None:
            return 0
        if place.row is not None:
            return place.row.length
        name = layout.object_name(digest, place.form)
        if place.form == layout.CHUNKS:
            return chunks.parse(self._store.storage.read(name)).size
        return self._inventory.size(name) if place.form == layout.PLAIN else len(self._store.get(digest))

    def _ref(self, number: int, name: str, files: int, size: int) -> RefStats:
        bit = 1 << number
        groups = [(who, *counted) for who, counted in self._groups.items() if who & bit]
        unique = sum(bytes_ for _, _, bytes_ in groups)
        own = self._groups.get(bit, (0, 0))[1]
        return RefStats(
            name=name, files=files, size=size, contents=sum(count for _, count, _ in groups), unique=unique,
            own=own, shared=unique - own,
        )  # fmt: skip

    def pairs(self) -> list[Pair]:
        """Return what each two refs share, most first."""
        found: dict[tuple[int, int], tuple[int, int]] = {}
        for who, (count, size) in self._groups.items():
            numbers = [number for number in range(who.bit_length()) if who >> number & 1]
            for at, first in enumerate(numbers):
                for second in numbers[at + 1 :]:
                    before = found.get((first, second), (0, 0))
                    found[first, second] = (before[0] + count, before[1] + size)
        pairs = (
            Pair(first=self._names[first], second=self._names[second], contents=count, size=size)
            for (first, second), (count, size) in found.items()
        )
        return sorted(pairs, key=lambda pair: (-pair.size, pair.first, pair.second))

    def largest(self) -> Iterator[Large]:
        """Yield the largest contents."""
        for digest in heapq.nsmallest(LARGEST, self.sizes, key=lambda digest: (-self.sizes[digest], digest)):
            who = self._who[digest]
            number = (who & -who).bit_length() - 1
            yield Large(
                digest=digest, size=self.sizes[digest], ref=self._names[number],
                path=self._path(self._lists[number], digest), refs=who.bit_count(),
            )  # fmt: skip

    def _path(self, listed: str, digest: str) -> bytes:
        if not listed:
            return b""
        data = self._store.read_list(listed)
        at = data.find(b"\t" + digest.encode() + b"\t")
        begin = data.rfind(b"\n", 0, at) + 1
        return entry.parse(data[begin : data.index(b"\n", at)]).path if at >= 0 else b""
