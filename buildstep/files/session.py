"""Write to a store: contents first, then the list, then the ref, under a lease.

Until the ref is set nobody sees anything of it. What was stored before an interruption is found, and not
stored again, by the next try.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from buildstep.errors import StoreError
from buildstep.files import catalogue, chunks, condemned, layout, leases, refs
from buildstep.files.content import ContentStore, Finder, Place, packed_list
from buildstep.files.marks import contents_in
from buildstep.files.pack import TARGET, PackWriter, Written
from buildstep.files.parallel import parallel
from buildstep.files.refs import Ref
from buildstep.formats.codecs import codec
from buildstep.system.files import CHUNK, write_all
from buildstep.tree import entry
from buildstep.tree.entry import FileList


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredList:
    """A list in a store. digest: of its stored form; tree: the tree digest; size: bytes of all contents.

    blobs: names of those that hold it and its contents, empty where they are too many to be worth a note.
    """

    digest: str
    tree: str
    entries: int
    size: int
    blobs: tuple[str, ...] = ()


class Session:
    """A writer. A context manager; use one from one thread. what: for people who look at the leases.

    new_objects, new_bytes: how many contents were not in the store yet, and their sizes.
    """

    def __init__(self, store: ContentStore, what: str, *, ttl: float = leases.TTL) -> None:
        self.store = store
        self._storage = store.storage
        self._lease = leases.Lease(store.storage, what, ttl=ttl)
        self._stack = contextlib.ExitStack()
        self._absent: set[str] = set()
        self._rescuing = threading.Lock()
        self._pack: PackWriter | None = None
        self._packs = 0
        self.new_objects = 0
        self.new_bytes = 0

    def __enter__(self) -> Self:
        settings = self.store.settings
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._lease)
            listed = condemned.read(self._storage)
            self._lease.saw(listed.generation)
            self._absent = {*listed.names, *listed.deleting}
            parsed = map(layout.parse, self._absent)
            self.catalogue = catalogue.Catalogue(
                self._storage,
                self.store.kept / "packs" if self.store.kept else None,
                without={name.digest for name in parsed if name and name.kind == "packs"},
            )
            self.spool: Path = stack.enter_context(self._storage.spool())
            self._stack = stack.pop_all()
        self._finder = Finder(self._storage, self.catalogue, self._absent)
        self._settings = settings
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pack is not None:
            self._pack.__exit__(kind or StoreError, error, trace)
        self._stack.__exit__(kind, error, trace)

    # -- contents --------------------------------------------------------------------------------------

    def find(self, digests: Iterable[str]) -> dict[str, Place]:
        """Return where those contents are that are in the store and stay there. Raises StoreError."""
        found = self._finder.find(digests)
        if not self._absent:
            return found
        # A chunk can be condemned longer than the list of chunks that has it: the one who wrote that list may
        # rely on the chunk, as he began before, but we may not.
        return {
            digest: place
            for digest, place in found.items()
            if place.form != layout.CHUNKS or self._has_chunks(digest)
        }

    def _has_chunks(self, digest: str) -> bool:
        recipe = chunks.parse(self._storage.read(layout.object_name(digest, layout.CHUNKS)))
        wanted = {piece.digest for piece in recipe.pieces}
        found = self._finder.find(wanted)
        return len(found) == len(wanted) and all(place.form != layout.CHUNKS for place in found.values())

    def has(self, digests: Iterable[str]) -> set[str]:
        """Return those contents that are in the store and stay there, or were put. Raises StoreError."""
        wanted = set(digests)
        found = set(self.find(wanted)) if self._absent else self._finder.has(wanted)
        if self._pack is not None:
            found |= {digest for digest in wanted if digest in self._pack}
        return found

    def put(self, data: bytes, digest: str = "") -> str:
        """Store a content that is in memory, if it is not there; return its digest.

        digest: if the caller has just made it of this data. Small ones are durable after `flush`.
        Raises StoreError.
        """
        digest = digest or hashlib.sha256(data).hexdigest()
        self.new_objects += self.put_all([(digest, data)])
        return digest

    def put_all(self, contents: Iterable[tuple[str, bytes]]) -> int:
        """Store those contents that are not there, several at once; return how many. contents: digest, data.

        Small ones are durable after `flush`. Raises StoreError, and what the iteration raises.
        """
        new = 0
        for batch in _batches(contents):
            present = self.has(batch)
            absent = {digest: data for digest, data in batch.items() if digest not in present}
            new += len(absent)
            self.new_bytes += sum(map(len, absent.values()))
            objects = []
            for digest, data in absent.items():
                if self._settings.packed(len(data)):
                    self._add_to_pack(digest, data)
                else:
                    objects.append((digest, data))
            for digest, form in parallel(self._put_object, objects, self._storage.at_once):
                self._finder.stored(digest, form)
        return new

    def _put_object(self, content: tuple[str, bytes]) -> tuple[str, str]:
        digest, data = content
        form = layout.PLAIN
        if self._settings.compress:
            smaller = codec("zstd").compress(data)
            if len(smaller) < len(data):
                data, form = smaller, layout.ZSTD
        self.write(layout.object_name(digest, form), data)
        return digest, form

    def put_stream(self, stream: IO[bytes], size: int) -> str:
        """Store a content that is read from a file, without holding it in memory; return its digest.

        size: the bytes that it has. Raises StoreError, also where there are more or fewer; OSError.
        """
        settings = self._settings
        content = cast(IO[bytes], _Exactly(stream, size))
        if size <= (settings.chunk_above or CHUNK):
            return self.put(b"".join(iter(lambda: content.read(CHUNK), b"")))
        return self._put_chunks(content) if settings.chunk_above else self._put_plain(content)

    def _put_plain(self, stream: IO[bytes]) -> str:
        whole, size = hashlib.sha256(), 0
        path = self.spool / "plain"
        try:
            with path.open("xb", buffering=0) as copy:
                while data := stream.read(CHUNK):
                    whole.update(data)
                    write_all(copy.fileno(), data)
                    size += len(data)
            digest = whole.hexdigest()
            if not self.has([digest]):
                self.write(layout.object_name(digest), path)
                self._finder.stored(digest, layout.PLAIN)
                self.new_objects += 1
                self.new_bytes += size
        finally:
            path.unlink(missing_ok=True)
        return digest

    def _put_chunks(self, stream: IO[bytes]) -> str:
        whole = hashlib.sha256()
        pieces: list[tuple[str, int]] = []

        def cut() -> Iterator[tuple[str, bytes]]:
            for chunk in chunks.cut(stream):
                whole.update(chunk)
                pieces.append((hashlib.sha256(chunk).hexdigest(), len(chunk)))
                yield pieces[-1][0], chunk

        self.put_all(cut())
        digest = whole.hexdigest()
        if not self.has([digest]):
            self.flush()  # the chunks first
            self.write(layout.object_name(digest, layout.CHUNKS), chunks.dumps(pieces))
            self._finder.stored(digest, layout.CHUNKS)
            self.new_objects += 1
        return digest

    def _add_to_pack(self, digest: str, data: bytes) -> None:
        if self._pack is None:
            self._packs += 1
            self._pack = PackWriter(self.spool / f"pack{self._packs}", compress=self._settings.compress)
        self._pack.add(digest, data)
        if self._pack.size >= TARGET:
            self.flush()

    def flush(self) -> None:
        """Make everything durable that was put. Raises StoreError."""
        if self._pack is not None and len(self._pack):
            written, self._pack = self._pack.finish(), None
            self.add_packs([written])

    def add_packs(self, packs: Sequence[Written]) -> None:
        """Store packs that were written in `spool`; their files are removed. Raises StoreError."""
        for _ in parallel(self._add_pack, packs, self._storage.at_once):
            pass
        self.catalogue.add(packs)

    def _add_pack(self, written: Written) -> None:
        self.write(layout.pack_name(written.digest), written.path)
        written.path.unlink()

    def write(self, name: str, data: bytes | Path) -> None:
        """Store a blob that stays, whatever a garbage collection wanted with it. Raises StoreError."""
        if name in self._absent:
            with self._rescuing:  # of our threads too only one may end what a dead collection was deleting
                condemned.rescue(self._storage, [name], self._lease)
                self._absent.discard(name)
        self._storage.write(name, data)

    def still_has(self, stored: StoredList) -> StoredList | None:
        """Return a list with the blobs that it needs now, None if one of its contents is not there to stay.

        Raises Damaged, StoreError.
        """
        # The list alone says nothing: its writer may have relied on contents that we may not rely on, and a
        # damaged content is taken out of a store by itself. But a pack, by its name, always holds the same.
        if stored.blobs and self._stay(stored.blobs):
            return stored
        name = layout.list_name(stored.digest)
        if not self._stay([name]):
            return None
        wanted = set(contents_in(self.store.read_list(stored.digest)))
        if self.has(wanted) != wanted:
            return None
        return replace(stored, blobs=self._blobs(name, wanted))

    def _stay(self, blobs: Collection[str]) -> bool:
        if not self._absent.isdisjoint(blobs) or len(self._storage.exists(blobs)) != len(blobs):
            return False
        packs = {name.digest for name in map(layout.parse, blobs) if name and name.kind == "packs"}
        return not packs or packs <= set(catalogue.read(self._storage))

    def _blobs(self, list_name: str, contents: Collection[str]) -> tuple[str, ...]:
        """Return the names of the blobs that hold a list and its contents; nothing for more than a few."""
        packs, others = self.catalogue.packs_of(contents)
        if len(others) > _FEW_OBJECTS:
            return ()
        names = {list_name, *map(layout.pack_name, packs)}
        for digest, place in self.find(others).items():
            names.add(layout.object_name(digest, place.form))
            if place.form == layout.CHUNKS:
                recipe = chunks.parse(self._storage.read(layout.object_name(digest, place.form)))
                names.update(self._blobs(list_name, {piece.digest for piece in recipe.pieces}))
        return tuple(sorted(names)) if len(names) <= _FEW_OBJECTS else ()

    # -- lists and refs --------------------------------------------------------------------------------

    def put_list(self, entries: FileList) -> StoredList:
        """Store a list, all of whose contents are in the store. Raises StoreError where one is not."""
        self.flush()
        contents = {item.sha256 for item in entries.values() if item.kind == "f"}
        if missing := contents - self.has(contents):
            raise StoreError(f"{len(missing)} contents of a list were not put, such as {min(missing)}")
        lines = entry.lines_of(entries)
        tree = entry.digest_of(lines)
        data = entry.dumps(entries, lines)
        digest = hashlib.sha256(data).hexdigest()
        name = layout.list_name(digest)
        self.write(name, packed_list(data))
        size = sum(item.size for item in entries.values() if item.kind == "f" and not item.first)
        return StoredList(
            digest=digest,
            tree=tree,
            entries=len(entries),
            size=size,
            blobs=self._blobs(name, contents),
        )

    def set_ref(self, ref: Ref, before: Ref | None) -> None:
        """Set a ref to what was put. before: what it was when it was read, None if it was not there.

        Raises RefChanged, LeaseLost: then nothing is sure to stay, and nothing was set; StoreError.
        """
        self.flush()
        self._lease.renew()
        refs.write(self._storage, ref, before)
        try:
            # This process may have been stopped since, for longer than a lease is valid.
            self._lease.renew()
        except leases.LeaseLost:
            self._take_back(ref, before)
            raise

    def _take_back(self, ref: Ref, before: Ref | None) -> None:
        now = refs.read(self._storage, ref.name)
        if now is None or (now.list, now.created) != (ref.list, ref.created):
            return
        with contextlib.suppress(refs.RefChanged):
            if before is None:
                refs.remove(self._storage, now)
            else:
                refs.write(self._storage, before, now)


class _Exactly:
    """A stream of which one knows how long it is. Raises StoreError where it is not."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._size = self._left = size

    def read(self, count: int = -1) -> bytes:
        """Return up to so many bytes; empty at the end, which must be the expected one."""
        data = self._stream.read(count)
        self._left -= len(data)
        if self._left < 0 or (not data and count and self._left):
            there = "more" if self._left < 0 else self._size - self._left
            raise StoreError(
                f"a content of {self._size} bytes came with {there}",
                hint="did something change it meanwhile? try again",
                retryable=True,
            )
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer as far as one read does; return how many bytes that were."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


_FEW_OBJECTS = 500
"""Blobs of a list that are noted: more are quicker found in the list itself."""
_BATCH, _BATCH_BYTES = 500, 32 << 20
"""Contents that are looked for at once, and what of them is held in memory."""


def _batches(contents: Iterable[tuple[str, bytes]]) -> Iterator[dict[str, bytes]]:
    batch: dict[str, bytes] = {}
    size = 0
    for digest, data in contents:
        batch[digest] = data
        size += len(data)
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch
