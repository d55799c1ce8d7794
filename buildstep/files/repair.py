"""Repair a store: put aside what is damaged, make the catalogue anew, get from another store what is lost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from buildstep.errors import StoreError
from buildstep.files import catalogue, condemned, layout, repack
from buildstep.files.content import ContentStore, packed_list
from buildstep.files.leases import Lease
from buildstep.files.session import Session
from buildstep.files.verify import Damage, Report, verify


@dataclass(frozen=True, kw_only=True, slots=True)
class Repaired:
    """What was done. quarantined: names that were put aside; fetched: lists and contents, by digest, that
    came from the other store; left: what is still damaged."""

    quarantined: tuple[str, ...]
    fetched: tuple[str, ...]
    left: Report


def repair(store: ContentStore, found: Report, source: ContentStore | None = None) -> Repaired:
    """Repair what a check found. source: another store that may have what is lost.

    What is damaged is moved to `quarantine/`, so that whoever puts it next stores it again; of a damaged pack
    what is whole in it goes to a new one. Raises Claimed while somebody collects garbage, LeaseLost,
    ReadOnly, StoreError.
    """
    with Lease(store.storage, "repair") as lease:
        listed = condemned.claim(store.storage, lease)
        try:
            if listed.deleting:
                condemned.delete(store.storage, listed, lease)
            moved = _put_aside(store, found, lease)
        finally:
            condemned.release(store.storage, lease)
    fetched: list[str] = []
    left = verify(store, quick=True)
    if source is not None:
        fetched = _fetch_lists(store, source, left.damage)
        left = verify(store, quick=True)
        fetched += _fetch(store, source, left.lost)
        left = verify(store, quick=True)
    return Repaired(quarantined=tuple(moved), fetched=tuple(fetched), left=left)


def _put_aside(store: ContentStore, found: Report, lease: Lease) -> list[str]:
    storage = store.storage
    there = storage.exists([damage.name for damage in found.damage])
    names = [
        damage.name for damage in found.damage if damage.name in there and damage.name != layout.CATALOGUE
    ]
    packs = [parsed.digest for parsed in map(layout.parse, names) if parsed and parsed.kind == "packs"]
    salvage = {digest: good for digest, good in found.salvage.items() if good}
    catalogue.rebuild(storage, {*found.good, *salvage})
    catalogue.change(storage, remove=[digest for digest in packs if digest not in salvage])
    store.refresh()
    if salvage:
        repack.copy(store, salvage, lease)
    catalogue.change(storage, remove=packs)
    made_of_chunks = [name for name in names if name.endswith(layout.CHUNKS)]
    moved = [name for name in names if name not in made_of_chunks]
    for name in moved:
        _move(store, name)
    store.refresh()
    # Of these only the chunks were missing, if no more than the catalogue was damaged.
    broken = [name for name in made_of_chunks if not _can_be_read(store, name)]
    for name in broken:
        _move(store, name)
    return moved + broken


def _can_be_read(store: ContentStore, name: str) -> bool:
    parsed = layout.parse(name)
    assert parsed is not None
    try:
        store.write_to(parsed.digest, -1, write=lambda _fd, _data: None)
    except StoreError as error:
        if error.retryable:
            raise
        return False
    return True


def _move(store: ContentStore, name: str) -> None:
    storage = store.storage
    with storage.spool() as spool:
        copy = spool / "damaged"
        storage.fetch(name, copy)
        storage.write(layout.QUARANTINE + name, copy)
    if name.startswith(layout.REFS):
        there = storage.load(name)
        storage.swap(name, None, there.version if there else None)
    else:
        storage.delete([name])


def _fetch_lists(store: ContentStore, source: ContentStore, damage: Iterable[Damage]) -> list[str]:
    fetched = []
    for one in damage:
        parsed = layout.parse(one.name)
        if parsed is None or parsed.kind != "lists":
            continue
        try:
            data = source.read_list(parsed.digest)
        except StoreError:  # it has not got it either, or not whole
            continue
        store.storage.write(one.name, packed_list(data))
        fetched.append(parsed.digest)
    return fetched


def _fetch(store: ContentStore, source: ContentStore, wanted: set[str]) -> list[str]:
    """Get contents, each verified; what the source cannot give is left out."""
    there = source.has(wanted)
    fetched = []
    with Session(store, "repair") as session, tempfile.TemporaryDirectory() as folder:
        for digest in sorted(there):
            path = Path(folder, "content")
            try:
                with path.open("xb") as stream:
                    size = source.write_to(digest, stream.fileno())
                with path.open("rb") as stream:
                    session.put_stream(stream, size)
            except StoreError:
                continue
            finally:
                path.unlink(missing_ok=True)
            fetched.append(digest)
        session.flush()
    return fetched
