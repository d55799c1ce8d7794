"""Write anew what is needed of packs, into new ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from buildstep.files import catalogue, condemned, layout
from buildstep.files.content import ContentStore
from buildstep.files.interface import Damaged, Missing, Storage
from buildstep.files.leases import Lease
from buildstep.files.pack import TARGET, Index, PackWriter, Written
from buildstep.files.parallel import parallel

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
    storage, indexes = store.storage, store.catalogue.indexes
    damaged: list[str] = []
    with storage.spool() as spool:

        def write(numbered: tuple[int, _Group]) -> Written | None:
            number, group = numbered
            with PackWriter(spool / f"pack{number}", compress=store.settings.compress) as writer:
                for digest, contents in group:
                    if not _copy(storage, digest, indexes[digest], contents, writer):
                        damaged.append(digest)
                if not len(writer):
                    return None
                written = writer.finish()
            name = layout.pack_name(written.digest)
            if name in listed:
                condemned.rescue(storage, [name], lease)
            storage.write(name, written.path)
            written.path.unlink()
            return written

        listed = condemned.read(storage)
        at_once = min(storage.at_once, os.cpu_count() or 1)
        groups = enumerate(_groups(wanted, indexes))
        made = [written for written in parallel(write, groups, at_once) if written is not None]
    if made:
        store.catalogue.add(made)
    new = {layout.pack_name(written.digest): written.size for written in made}
    emptied = [layout.pack_name(digest) for digest in wanted if digest not in damaged]
    return Copied(
        new=new,
        emptied=tuple(name for name in emptied if name not in new),
        damaged=tuple(map(layout.pack_name, sorted(damaged))),
    )


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


def _copy(storage: Storage, digest: str, index: Index, wanted: list[str], writer: PackWriter) -> bool:
    """Add contents of a pack to another; return False if some are damaged."""
    whole = True
    try:
        for content, data in catalogue.frames(storage, digest, index, wanted):
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
