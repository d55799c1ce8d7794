"""Write anew what is needed of packs, into new ones."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from buildstep.files import catalogue, condemned, layout, pack
from buildstep.files.content import ContentStore
from buildstep.files.interface import Damaged, Missing, Storage
from buildstep.files.leases import Lease
from buildstep.files.pack import TARGET, Index, PackWriter, Row, Written
from buildstep.files.parallel import parallel
from buildstep.formats.codecs import codec
from buildstep.system import workers

_Group = list[tuple[str, list[str]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Copied:
    """What was copied, by the names of packs. new: with their bytes; emptied: with nothing more that is
    needed; damaged: that could not be read, and stay."""

    new: Mapping[str, int] = field(default_factory=dict)
    emptied: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


def copy(store: ContentStore, wanted: Mapping[str, Sequence[str]], lease: Lease) -> Copied:
    """Copy contents of packs, verified, to new packs that are in the catalogue afterwards.

    wanted: by pack, the contents; lease: of the caller, who has claimed what is condemned. A content that is
    damaged is left out. Raises LeaseLost, StoreError.
    """
    storage = store.storage
    listed = condemned.read(storage)

    def keep(built: _Built) -> Written:
        name = layout.pack_name(built.digest)
        if name in listed:
            condemned.rescue(storage, [name], lease)
        storage.write(name, built.path)
        written = Written(built.digest, built.path, built.size, pack.index_of(built.path))
        built.path.unlink()
        return written

    with storage.spool() as spool, _building(store, wanted, spool) as building:
        made, damaged = [], []
        for built in building:
            damaged += built.damaged
            if built.digest:
                made.append(keep(built))
    if made:
        store.catalogue.add(made)
    new = {layout.pack_name(written.digest): written.size for written in made}
    emptied = [layout.pack_name(digest) for digest in wanted if digest not in damaged]
    return Copied(
        new=new,
        emptied=tuple(name for name in emptied if name not in new),
        damaged=tuple(map(layout.pack_name, sorted(damaged))),
    )


class _Built(NamedTuple):
    """A new pack, not stored yet; an empty digest for none. damaged: packs that could not be read whole."""

    digest: str
    path: Path
    size: int
    damaged: list[str]


@contextlib.contextmanager
def _building(
    store: ContentStore, wanted: Mapping[str, Sequence[str]], spool: Path
) -> Iterator[Iterator[_Built]]:
    """Build new packs, several at once: in processes where packs are files of this machine."""
    storage, indexes = store.storage, store.catalogue.indexes

    def build(numbered: tuple[int, _Group]) -> _Built:
        number, group = numbered
        path = spool / f"pack{number}"
        with PackWriter(path, compress=store.settings.compress) as writer:
            sources = [_Source(storage, digest, indexes[digest], wanted) for digest, wanted in group]
            # Whole frames last: each one would close the frame that others are collected in.
            done = [source.copy_contents(writer) for source in sources]
            done = [source.copy_frames(writer) and good for source, good in zip(sources, done, strict=True)]
            damaged = [digest for (digest, _), good in zip(group, done, strict=True) if not good]
            if not len(writer):
                return _Built("", path, 0, damaged)
            written = writer.finish()
            return _Built(written.digest, path, written.size, damaged)

    def build_share(share: list[tuple[int, _Group]], send: workers.Send) -> None:
        for numbered in share:
            send(build(numbered))

    groups = list(enumerate(_groups(wanted, indexes)))
    count = min(workers.cores(), len(groups))
    if storage.root is None or count <= 1:
        yield parallel(build, groups, min(storage.at_once, workers.cores()))
        return
    codec("zstd")  # before the workers: they need not import it each
    with workers.running([groups[number::count] for number in range(count)], build_share) as values:
        yield values


def _groups(wanted: Mapping[str, Sequence[str]], indexes: Mapping[str, Index]) -> Iterator[_Group]:
    """Join packs to groups of which each makes one new pack."""
    group: _Group = []
    size = 0
    for digest, contents in wanted.items():
        index = indexes[digest]
        group.append((digest, list(contents)))
        whole = sum(frame.stored for frame in index.frames)
        part = sum(index.rows[content].length for content in contents)
        size += whole * part // max(1, index.length)
        if size >= TARGET:
            yield group
            group, size = [], 0
    if group:
        yield group


class _Source:
    """A pack, and the contents that are wanted of it: those of frames that are wanted as a whole, and others.

    A frame is copied as it is stored: it need not be compressed again.
    """

    def __init__(self, storage: Storage, digest: str, index: Index, wanted: Iterable[str]) -> None:
        self._storage = storage
        self._digest = digest
        self._index = index
        chosen = set(wanted)
        by_frame: dict[int, dict[str, Row]] = {}
        for content, row in index.rows.items():
            by_frame.setdefault(row.frame, {})[content] = row
        self._frames = {number: rows for number, rows in by_frame.items() if rows.keys() <= chosen}
        self._others = [content for content in chosen if index.rows[content].frame not in self._frames]

    def copy_contents(self, writer: PackWriter) -> bool:
        """Copy those of frames that have others as well; return False if some are damaged."""
        return self._copy_each(self._others, writer)

    def copy_frames(self, writer: PackWriter) -> bool:
        """Copy the frames that are wanted as a whole; return False if something in them is damaged."""
        good = True
        for number, rows in self._frames.items():
            frame = self._index.frames[number]
            try:
                stored = self._storage.read(layout.pack_name(self._digest), frame.offset, frame.stored)
                pack.expand(frame, stored)  # zstd has a checksum of what is in it
            except (pack.DamagedPack, Missing):
                good = False
            else:
                if frame.codec == pack.STORED:
                    good &= self._copy_each(rows, writer)
                else:
                    writer.add_frame(frame, stored, rows)
        return good

    def _copy_each(self, wanted: Iterable[str], writer: PackWriter) -> bool:
        whole = True
        try:
            for content, data in catalogue.frames(self._storage, self._digest, self._index, wanted):
                if hashlib.sha256(data).hexdigest() == content:
                    writer.add(content, data)
                else:
                    whole = False
        except (Damaged, Missing):
            return False
        return whole


def is_whole(storage: Storage, digest: str) -> bool:
    """Tell whether a pack is what its name says. Raises StoreError."""
    return hashlib.sha256(storage.read(layout.pack_name(digest))).hexdigest() == digest
