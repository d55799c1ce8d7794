"""A content store: each content once, by the SHA-256 of its bytes, in any storage.

Whatever is read is hashed and compared before the caller gets it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from buildstep.errors import StoreError
from buildstep.events import Bus
from buildstep.files import catalogue, chunks, layout
from buildstep.files.interface import Damaged, Missing, Storage, Unlistable
from buildstep.files.pack import Row
from buildstep.files.parallel import parallel
from buildstep.formats.codecs import codec, expand_zstd
from buildstep.system.files import CHUNK, write_all
from buildstep.system.text import plural
from buildstep.tree import entry
from buildstep.tree.entry import FileList

FORMAT = 1
LARGEST_OBJECT = 64 << 20
"""Bytes that a compressed object may have once it is expanded."""
_LARGEST_LIST = 4 << 30
_FEW = 100
"""Contents that are looked for by their names; for more, all objects are listed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a store is written to; every reader takes all forms.

    compress: with zstd, where that makes it smaller. pack_below: contents of up to so many bytes go into
    packs, 0: none. chunk_above: contents of more bytes are cut into chunks, 0: none. id: tells this store
    from every other.
    """

    compress: bool = True
    pack_below: int = 128 << 10
    chunk_above: int = 8 << 20
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def packed(self, size: int) -> bool:
        """Tell whether a content of so many bytes goes into a pack."""
        return bool(self.pack_below) and size <= self.pack_below


LINKABLE = Settings(compress=False, pack_below=0, chunk_above=0, id="")
"""Every content is a plain file, so that a checkout on the same file system can share its blocks."""


class Place(NamedTuple):
    """Where a content is: in a pack, or in an object of this form (see `layout.FORMS`)."""

    pack: str = ""
    row: Row | None = None
    form: str = ""


class Finder:
    """Finds contents. absent: names of packs and objects that are taken for absent."""

    def __init__(self, storage: Storage, found: catalogue.Catalogue, absent: Container[str] = ()) -> None:
        self._storage = storage
        self._catalogue = found
        self._absent = absent
        self._listed: dict[str, str] | None = None
        self._asked = 0

    def find(self, digests: Iterable[str]) -> dict[str, Place]:
        """Return where these contents are, without those that are not there. Raises StoreError."""
        found: dict[str, Place] = {}
        missing = []
        for digest in digests:
            if (packed := self._catalogue.find(digest)) is not None:
                found[digest] = Place(packed.pack, packed.row)
            else:
                missing.append(digest)
        for digest, form in self._objects(missing).items():
            found[digest] = Place(form=form)
        return found

    def has(self, digests: Iterable[str]) -> set[str]:
        """Return those of these contents that are there, quicker than `find`. Raises StoreError."""
        wanted = set(digests)
        found = wanted & self._catalogue.digests()
        return found | self._objects(wanted - found).keys()

    def _objects(self, digests: Collection[str]) -> dict[str, str]:
        """Return the form of those that are objects of their own."""
        self._asked += len(digests)
        if self._listed is None and self._asked > _FEW:
            self._listed = self._list()
        if self._listed is not None:
            listed = self._listed
            return {digest: listed[digest] for digest in digests if digest in listed}
        # Each name is a call to a web server, which cannot be listed: most are found in the first form.
        rounds = [layout.FORMS] if len(digests) <= _FEW else [(form,) for form in layout.FORMS]
        found: dict[str, str] = {}
        for forms in rounds:
            names = [layout.object_name(it, form) for it in digests if it not in found for form in forms]
            found |= self._forms(self._storage.exists(names)) if names else {}
        return found

    def _list(self) -> dict[str, str] | None:
        try:
            return self._forms(item.name for item in self._storage.list(layout.OBJECTS))
        except Unlistable:
            return None

    def _forms(self, names: Iterable[str]) -> dict[str, str]:
        parsed = (layout.parse(name) for name in names if name not in self._absent)
        return {name.digest: name.end for name in parsed if name is not None}

    def stored(self, digest: str, form: str) -> None:
        """Note an object that was written just now."""
        if self._listed is not None:
            self._listed[digest] = form


class ContentStore:
    """Reads a store. kept: a directory of this machine for what need not be fetched again."""

    def __init__(self, storage: Storage, *, bus: Bus | None = None, kept: Path | None = None) -> None:
        self.storage = storage
        self.bus = bus or Bus()
        self.kept = kept
        self.catalogue = catalogue.Catalogue(storage, kept / "packs" if kept else None)
        self._finder = Finder(storage, self.catalogue)
        self._settings: Settings | None = None

    # -- what it is ------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """How it is written to. Raises StoreError where there is no store."""
        if self._settings is None:
            there = self.storage.load(layout.MARKER)
            if there is None:
                raise StoreError(
                    f"there is no store in {self.storage.url}", hint="`buildstep files put` makes one"
                )
            self._settings = _settings(self.storage.url, there.data)
        return self._settings

    def is_there(self) -> bool:
        """Tell whether there is a store. Raises StoreError also where there is none, and none can be made."""
        if self.storage.load(layout.MARKER) is not None:
            _ = self.settings
            return True
        if next(iter(self.storage.list("")), None) is not None:
            raise StoreError(
                f"{self.storage.url} has files, but no store of ours", hint="use an empty directory or prefix"
            )
        return False

    def create(self, settings: Settings | None = None) -> None:
        """Make the store if there is none. settings: of a new one. Raises StoreError."""
        if not self.is_there():
            chosen = asdict(settings or Settings())
            chosen["id"] = chosen["id"] or Settings().id
            value = {"format": FORMAT, **chosen}
            # Of two that make it at once one wins; what he chose counts.
            self.storage.swap(layout.MARKER, json.dumps(value, indent=2).encode() + b"\n", None)
        self._settings = None
        _ = self.settings

    # -- reading ---------------------------------------------------------------------------------------

    def find(self, digests: Iterable[str]) -> dict[str, Place]:
        """Return where these contents are, without those that are not there. Raises StoreError."""
        return self._finder.find(digests)

    def has(self, digests: Iterable[str]) -> set[str]:
        """Return those contents that are in the store. Raises StoreError."""
        return self._finder.has(digests)

    def get(self, digest: str, start: int = 0, count: int | None = None) -> bytes:
        """Return a content, or `count` bytes of it from `start` on. The whole content is verified, but of one
        that is made of chunks only those that are read. Raises Missing, Damaged, StoreError."""
        place = self._place(digest)
        if place.form == layout.CHUNKS:
            recipe = chunks.parse(self.storage.read(layout.object_name(digest, layout.CHUNKS)))
            end = recipe.size if count is None else min(recipe.size, start + count)
            pieces = [
                self._piece(piece.digest)[max(0, start - piece.offset) : end - piece.offset]
                for piece in recipe.pieces
                if piece.offset < end and piece.offset + piece.size > start
            ]
            return b"".join(pieces)
        return self._whole(digest, place)[start : None if count is None else start + count]

    def _piece(self, digest: str) -> bytes:
        """Return a chunk. One that is made of chunks itself is no writer's work, and could go on for ever."""
        place = self._place(digest)
        if place.form == layout.CHUNKS:
            raise _damaged(self.storage.url, layout.object_name(digest, layout.CHUNKS))
        return self._whole(digest, place)

    def get_many(self, digests: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (digest, content) of each, verified, in the order that is quickest to read.

        Contents made of chunks are left to `write_to`. Raises Missing, Damaged, StoreError.
        """
        places = self._places(digests)
        by_pack: dict[str, list[str]] = {}
        single = []
        for digest, place in places.items():
            if place.pack:
                by_pack.setdefault(place.pack, []).append(digest)
            elif place.form != layout.CHUNKS:
                single.append(digest)
        for name, wanted in by_pack.items():
            for digest, data in self._frames(name, wanted):
                yield digest, self._checked(digest, data, layout.pack_name(name))
        yield from parallel(
            lambda digest: (digest, self._whole(digest, places[digest])), single, self.storage.at_once
        )

    def write_to(self, digest: str, fd: int, *, write: Callable[[int, bytes], None] = write_all) -> int:
        """Write a content to an open file, verified as a whole; return its size in bytes.

        write: writes bytes to a descriptor, at its offset. After an error the file holds a part of the
        content. Raises Missing, Damaged, StoreError, OSError.
        """
        place = self._place(digest)
        if place.form == layout.PLAIN and not place.pack and self.storage.root is not None:
            return self._copy_plain(digest, fd, write)
        if place.form != layout.CHUNKS:
            data = self._whole(digest, place)
            write(fd, data)
            return len(data)
        name = layout.object_name(digest, layout.CHUNKS)
        recipe = chunks.parse(self.storage.read(name))
        whole = hashlib.sha256()
        pieces = [piece.digest for piece in recipe.pieces]
        for data in parallel(self._piece, pieces, self.storage.at_once):
            whole.update(data)
            write(fd, data)
        if whole.hexdigest() != digest:
            raise _damaged(self.storage.url, name)
        return recipe.size

    def _copy_plain(self, digest: str, fd: int, write: Callable[[int, bytes], None]) -> int:
        name = layout.object_name(digest)
        assert self.storage.root is not None
        whole, size = hashlib.sha256(), 0
        try:
            source = os.open(self.storage.root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Missing(f"{self.storage.url} has no {name}") from None
        with os.fdopen(source, "rb", buffering=0) as stream:
            while data := stream.read(CHUNK):
                whole.update(data)
                size += len(data)
                write(fd, data)
        if whole.hexdigest() != digest:
            raise _damaged(self.storage.url, name)
        return size

    def _place(self, digest: str) -> Place:
        return self._places([digest])[digest]

    def _places(self, digests: Iterable[str]) -> dict[str, Place]:
        wanted = list(dict.fromkeys(digests))
        found = self.find(wanted)
        if len(found) < len(wanted):
            self.refresh()  # a garbage collection may have packed some of them anew
            found = self.find(wanted)
        if missing := [digest for digest in wanted if digest not in found]:
            raise Missing(
                f"{self.storage.url} lacks {plural(len(missing), 'content')}: {missing[0]}"
                + (" and others" if len(missing) > 1 else ""),
                hint="`buildstep files verify --repair-from STORE` gets it from another store",
            )
        return found

    def refresh(self) -> None:
        """Forget what was read of the store's state, and read it anew when it is needed."""
        self.catalogue.load()
        self._finder = Finder(self.storage, self.catalogue)

    def _frames(self, name: str, wanted: list[str]) -> Iterator[tuple[str, bytes]]:
        try:
            yield from catalogue.frames(self.storage, name, self.catalogue.indexes[name], wanted)
        except Missing:
            self.refresh()
            for digest, place in self._places(wanted).items():
                if place.pack == name:
                    raise
                yield digest, self._whole(digest, place)

    def _whole(self, digest: str, place: Place) -> bytes:
        if place.pack:
            [(_, data)] = self._frames(place.pack, [digest])
            return self._checked(digest, data, layout.pack_name(place.pack))
        name = layout.object_name(digest, place.form)
        if place.form == layout.CHUNKS:
            return self.get(digest)
        data = self.storage.read(name)
        if place.form == layout.ZSTD:
            try:
                data = expand_zstd(data, LARGEST_OBJECT)
            except ValueError as error:
                raise _damaged(self.storage.url, name) from error
        return self._checked(digest, data, name)

    def _checked(self, digest: str, data: bytes, name: str) -> bytes:
        if hashlib.sha256(data).hexdigest() != digest:
            raise _damaged(self.storage.url, name)
        return data

    # -- lists -----------------------------------------------------------------------------------------

    def get_list(self, digest: str) -> FileList:
        """Return a stored list, verified. Raises Missing, Damaged, StoreError."""
        return entry.loads(self.read_list(digest))

    def read_list(self, digest: str) -> bytes:
        """Return the bytes of a stored list, verified; see `tree.entry.dumps`. Raises as `get_list`."""
        name = layout.list_name(digest)
        try:
            data = expand_zstd(self.storage.read(name), _LARGEST_LIST)
        except ValueError as error:
            raise _damaged(self.storage.url, name) from error
        return self._checked(digest, data, name)


def _settings(url: str, data: bytes) -> Settings:
    try:
        value = json.loads(data)
        if value.pop("format") != FORMAT:
            raise StoreError(f"the store in {url} has a format of another version")
        return Settings(**value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{layout.MARKER} of {url} cannot be read: {error}") from error


def _damaged(url: str, name: str) -> Damaged:
    return Damaged(f"{url}: {name} is damaged: it is not what its name says", name=name)


def packed_list(data: bytes) -> bytes:
    """Return the stored form of a list's bytes."""
    return codec("zstd").compress(data)
