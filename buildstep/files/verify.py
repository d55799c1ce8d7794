"""Verify a store: every blob is what its name says, and everything that a ref keeps is there."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from buildstep.errors import StoreError
from buildstep.files import catalogue, chunks, layout, leases, pack, refs
from buildstep.files.content import LARGEST_OBJECT, ContentStore
from buildstep.files.interface import Item, Missing
from buildstep.files.marks import Inventory, contents_in, files_in
from buildstep.files.parallel import parallel
from buildstep.files.refs import Ref
from buildstep.formats.codecs import codec, expand_zstd
from buildstep.system import workers
from buildstep.tree import entry

_WRONG = "it is not what its name says"
_GONE = "it is not there"
_SHOWN = 5
"""Paths that are named for each damage."""


class Hit(NamedTuple):
    """A path of a ref whose content is lost; empty for a content that the ref names itself."""

    ref: str
    path: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """One thing that is wrong.

    name: of the blob; of a content that is nowhere, its digest. contents: those that are lost by it, as no
    other blob has them. refs: those that lack something therefore; hits: some of the paths in them.
    """

    name: str
    problem: str
    contents: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()
    hits: tuple[Hit, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a check found. The numbers are of what there is; size: bytes of the blobs.

    good: the packs that are whole, and of damaged ones, in `salvage`, the contents that are.
    """

    damage: tuple[Damage, ...] = ()
    refs: int = 0
    lists: int = 0
    packs: int = 0
    objects: int = 0
    contents: int = 0
    size: int = 0
    good: tuple[str, ...] = ()
    salvage: dict[str, list[str]] = field(default_factory=dict)

    @property
    def lost(self) -> set[str]:
        """The contents that refs keep, and that are nowhere."""
        return {content for damage in self.damage for content in damage.contents}


def verify(store: ContentStore, *, quick: bool = False) -> Report:
    """Check a store. quick: only that everything is there, and of the right form, without reading all of it.

    Raises Unlistable, and StoreError where the store cannot be reached.
    """
    _ = store.settings
    with leases.reading(store.storage, "verify"):
        return _Check(store, quick=quick).run()


_Looked = tuple[str, bool, list[str]]


def _problem(error: StoreError) -> str:
    """Return what is wrong with a blob. Raises the error where it is the storage that cannot be reached."""
    if error.retryable:
        raise error
    return _GONE if isinstance(error, Missing) else error.message


class _Check:
    def __init__(self, store: ContentStore, *, quick: bool) -> None:
        self._store = store
        self._storage = store.storage
        self._quick = quick
        self._damage: dict[str, str] = {}
        self._good: set[str] = set()
        """The contents that somebody who reads the store gets."""
        self._whole: list[str] = []
        self._salvage: dict[str, list[str]] = {}
        self._lists: dict[str, list[str]] = {}
        self._sizes: dict[str, int] = {}

    def run(self) -> Report:
        there = list(self._refs())
        self._inventory = Inventory.of(self._storage)
        self._read_lists({*self._inventory.lists, *(ref.list for ref in there if ref.list)})
        self._check_packs()
        self._check_objects()
        self._check_recipes()
        found = self._inventory
        items = [*found.objects.values(), *found.packs.values(), *found.lists.values()]
        return Report(
            damage=tuple(self._explained(there)), refs=len(there), lists=len(found.lists),
            packs=len(found.packs), objects=len(found.objects), contents=len(self._good),
            size=sum(item.size for item in items), good=tuple(self._whole), salvage=self._salvage,
        )  # fmt: skip

    def _refs(self) -> Iterator[Ref]:
        for item in self._storage.list(layout.REFS):
            try:
                found = refs.read(self._storage, layout.ref_of(item.name))
            except StoreError as error:
                self._damage[item.name] = error.message
            else:
                if found is not None:
                    yield found

    def _read_lists(self, digests: set[str]) -> None:
        def read(digest: str) -> tuple[str, bytes, str]:
            try:
                return digest, self._store.read_list(digest), ""
            except StoreError as error:
                return digest, b"", _problem(error)

        for digest, data, problem in parallel(read, sorted(digests), self._storage.at_once):
            try:
                if problem:
                    self._damage[layout.list_name(digest)] = problem
                elif self._quick:
                    self._sizes.update(files_in(data))
                    self._lists[digest] = contents_in(data)
                else:
                    self._lists[digest] = contents_in(data)
            except StoreError as error:
                self._damage[layout.list_name(digest)] = error.message

    # -- packs -----------------------------------------------------------------------------------------

    def _check_packs(self) -> None:
        try:
            known = set(catalogue.read(self._storage))
        except StoreError as error:
            self._damage[layout.CATALOGUE] = error.message
            known = set()
        items = self._inventory.packs
        for digest in sorted(known - items.keys()):
            self._damage[layout.pack_name(digest)] = "the catalogue has it, and it is not there"
        for digest, whole, good in self._looked():
            if whole:
                self._whole.append(digest)
            else:
                self._damage[layout.pack_name(digest)] = _WRONG
                self._salvage[digest] = good
            if digest in known:
                self._good.update(good)

    def _looked(self) -> Iterator[_Looked]:
        """Look at all packs at once."""
        packs = sorted(self._inventory.packs)
        count = min(workers.cores(), len(packs))
        if self._quick or self._storage.root is None or count < 2:
            look = self._look_into if self._quick else self._read_pack
            yield from parallel(look, packs, self._storage.at_once)
            return
        codec("zstd")  # before the workers: they need not import it each

        def work(share: list[str], send: workers.Send) -> None:
            for digest in share:
                send(self._read_pack(digest))

        with workers.running([packs[number::count] for number in range(count)], work) as found:
            yield from found

    def _look_into(self, digest: str) -> _Looked:
        """Return a pack, whether it looks whole, and its contents."""
        name = layout.pack_name(digest)
        try:
            index = pack.read_index(lambda count: self._storage.read(name, -count))
        except StoreError as error:
            _problem(error)
            return digest, False, []
        frames = sum(frame.stored for frame in index.frames)
        return digest, frames < self._inventory.packs[digest].size, list(index.rows)

    def _read_pack(self, digest: str) -> _Looked:
        """Return a pack, whether it is whole, and those of its contents that are."""
        try:
            data = self._storage.read(layout.pack_name(digest))
            index = pack.read_index(lambda count: data[-count:])
        except StoreError as error:
            _problem(error)
            return digest, False, []
        view = memoryview(data)
        good: list[str] = []
        by_frame: dict[int, list[tuple[str, pack.Row]]] = {}
        for content, row in index.rows.items():
            by_frame.setdefault(row.frame, []).append((content, row))
        for number, rows in by_frame.items():
            frame = index.frames[number]
            try:
                expanded = memoryview(
                    pack.expand(frame, bytes(view[frame.offset : frame.offset + frame.stored]))
                )
            except pack.DamagedPack:
                continue
            sha256 = hashlib.sha256
            good += [
                content
                for content, row in rows
                if sha256(expanded[row.offset : row.offset + row.length]).hexdigest() == content
            ]
        whole = len(good) == len(index.rows) and hashlib.sha256(data).hexdigest() == digest
        return digest, whole, good

    # -- objects ---------------------------------------------------------------------------------------

    def _check_objects(self) -> None:
        names = [name for name in self._inventory.objects if not name.endswith(layout.CHUNKS)]
        check = self._look_at if self._quick else self._read_object
        for name, problem in parallel(check, sorted(names), self._storage.at_once):
            if problem:
                self._damage[name] = problem
            elif (parsed := layout.parse(name)) is not None:
                self._good.add(parsed.digest)

    def _look_at(self, name: str) -> tuple[str, str]:
        item, parsed = self._inventory.objects[name], layout.parse(name)
        assert parsed is not None
        size = self._sizes.get(parsed.digest, item.size)
        wrong = item.size != size if parsed.end == layout.PLAIN else item.size == 0
        return name, f"it has {item.size} bytes, and a list says {size}" if wrong else ""

    def _read_object(self, name: str) -> tuple[str, str]:
        parsed = layout.parse(name)
        assert parsed is not None
        try:
            if parsed.end == layout.ZSTD:
                digest = hashlib.sha256(expand_zstd(self._storage.read(name), LARGEST_OBJECT)).hexdigest()
            else:
                digest = self._hash_plain(self._inventory.objects[name])
        except StoreError as error:
            return name, _problem(error)
        except ValueError:
            return name, _WRONG
        return name, "" if digest == parsed.digest else _WRONG

    def _hash_plain(self, item: Item) -> str:
        whole = hashlib.sha256()
        for start in range(0, item.size + 1, LARGEST_OBJECT):  # one byte more: it may be longer than listed
            whole.update(self._storage.read(item.name, start, LARGEST_OBJECT))
        return whole.hexdigest()

    def _check_recipes(self) -> None:
        """Check what is made of chunks, once it is known which of these are good."""
        names = [name for name in self._inventory.objects if name.endswith(layout.CHUNKS)]
        if names:
            with contextlib.suppress(StoreError):
                self._store.catalogue.load(without=self._salvage)
        for name, digest, problem in parallel(self._read_recipe, sorted(names), self._storage.at_once):
            if problem:
                self._damage[name] = problem
            else:
                self._good.add(digest)

    def _read_recipe(self, name: str) -> tuple[str, str, str]:
        parsed = layout.parse(name)
        assert parsed is not None
        try:
            recipe = chunks.parse(self._storage.read(name))
            lost = {piece.digest for piece in recipe.pieces} - self._good
            if lost:
                return name, parsed.digest, f"{len(lost)} of its chunks are damaged or not there"
            if not self._quick:
                self._store.write_to(parsed.digest, -1, write=lambda _fd, _data: None)
        except StoreError as error:
            return name, parsed.digest, _problem(error)
        return name, parsed.digest, ""

    # -- what it means ---------------------------------------------------------------------------------

    def _explained(self, there: list[Ref]) -> Iterator[Damage]:
        """Yield all damage, with what the refs lack by it."""
        wanted = {ref.name: {*ref.contents, *self._lists.get(ref.list, ())} for ref in there}
        lost = set().union(*wanted.values()) - self._good
        # A ref may have been removed, and what it kept deleted, before our lease was there.
        there = [
            ref
            for ref in there
            if (not lost & wanted[ref.name] and ref.list in {"", *self._lists}) or self._is_same(ref)
        ]
        lost &= set().union(*(wanted[ref.name] for ref in there))
        hits = self._hits([ref for ref in there if lost & wanted[ref.name]], lost)
        keepers: dict[str, list[str]] = {}
        for ref in there:
            if ref.list:
                keepers.setdefault(layout.list_name(ref.list), []).append(ref.name)
        for name, problem in sorted(self._damage.items()):
            if problem == _GONE and name not in keepers:
                continue
            contents = self._contents_of(name) & lost
            lost -= contents
            found = Damage(
                name=name,
                problem=problem,
                contents=tuple(sorted(contents)),
                refs=tuple(keepers.get(name, ())),
            )
            yield self._with_hits(found, hits)
        for digest in sorted(lost):
            found = Damage(name=digest, problem="a content that is not there", contents=(digest,))
            yield self._with_hits(found, hits)

    def _is_same(self, ref: Ref) -> bool:
        with contextlib.suppress(StoreError):
            now = refs.read(self._storage, ref.name)
            return now is not None and (now.list, now.contents) == (ref.list, ref.contents)
        return True

    def _contents_of(self, name: str) -> set[str]:
        """Return the contents that a damaged blob should have."""
        parsed = layout.parse(name)
        if parsed is None:
            return set()
        if parsed.kind == "objects":
            return {parsed.digest}
        if parsed.kind == "packs":
            with contextlib.suppress(StoreError):
                return set(pack.read_index(lambda count: self._storage.read(name, -count)).rows)
        return set()

    def _hits(self, there: Iterable[Ref], lost: set[str]) -> dict[str, list[Hit]]:
        """Return what of the refs has these contents."""
        found: dict[str, list[Hit]] = {}
        for ref in there:
            for digest in lost.intersection(ref.contents):
                found.setdefault(digest, []).append(Hit(ref.name, b""))
            if ref.list in self._lists:
                for item in entry.loads(self._store.read_list(ref.list)).values():
                    if item.kind == "f" and item.sha256 in lost:
                        found.setdefault(item.sha256, []).append(Hit(ref.name, item.path))
        return found

    @staticmethod
    def _with_hits(damage: Damage, hits: dict[str, list[Hit]]) -> Damage:
        found = [hit for content in damage.contents for hit in hits.get(content, ())]
        names = tuple(sorted({*damage.refs, *(hit.ref for hit in found)}))
        return replace(damage, refs=names, hits=tuple(sorted(found)[:_SHOWN]))
