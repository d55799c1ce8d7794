"""Bring a list of any form, with its contents, into a store of ours.

The contents that the list names come from another store: AYS's, by MD5 (`ays_store`), or one of ours, by
SHA-256. All are known to be there before the first is read; each is verified; contents first, then the list,
then the ref.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from buildstep.errors import StoreError, UsageError
from buildstep.files import refs, transfer
from buildstep.files.ays_store import AysStore
from buildstep.files.content import ContentStore
from buildstep.files.interface import Missing, Storage
from buildstep.files.leases import reading as lease_to_read
from buildstep.files.lists import detect, read_list
from buildstep.files.lists.ays_lines import EMPTY_SHA256
from buildstep.files.lists.interface import FIND_CONTENT, Named, Note, Reading, ReadList, few, resolve
from buildstep.files.parallel import parallel
from buildstep.files.refs import Ref
from buildstep.files.session import Session, StoredList
from buildstep.report.progress import Advance, Begin, unseen
from buildstep.system.text import plural, shown_path
from buildstep.tree.entry import FileList


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is wanted. form: of the list, None to tell it by its first line; ref: to set, empty for none;
    owner: (uid, gid) of every path, None as the list says."""

    form: str | None = None
    reading: Reading
    ref: str = ""
    owner: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What was done. notes: what was odd in the list, and what had to be assumed; new_objects, new_bytes:
    contents that the store did not have."""

    stored: StoredList
    form: str
    notes: tuple[Note, ...]
    new_objects: int
    new_bytes: int


def import_list(
    store: ContentStore, data: bytes, objects: Storage | None, order: Order, *, begin: Begin = unseen
) -> Imported:
    """Store a list and its contents, and set a ref to it; the store is made if there is none.

    data: the list; objects: where its contents are.

    Raises SpecError with all faults of the list; Missing that names all contents that are not there, and then
    nothing is stored; Damaged, StoreError, RefChanged, UsageError. After an error no ref is set.
    """
    form = order.form or detect(data)
    found = read_list(data, order.form, order.reading)
    if order.owner is not None:
        for item in found.entries.values():
            item.uid, item.gid = order.owner
    store.create()
    before = refs.read(store.storage, order.ref) if order.ref else None
    with Session(store, f"import {order.reading.source}") as session:
        sources = _Sources(session, found, objects, order.reading.source)
        sources.check()
        with begin(*sources.count()) as advance:
            entries = sources.take(advance)
        stored = session.put_list(entries)
        if order.ref and (before is None or before.list != stored.digest):
            notes = {
                "imported": order.reading.source,
                "form": form,
                "objects": objects.url if objects else "",
            }
            ref = Ref(
                name=order.ref, list=stored.digest, tree=stored.tree, entries=stored.entries,
                size=stored.size, notes=notes,
            )  # fmt: skip
            session.set_ref(ref, before)
    return Imported(
        stored=stored,
        form=form or "",
        notes=found.notes,
        new_objects=session.new_objects,
        new_bytes=session.new_bytes,
    )


class _Sources:
    """Where the contents of a list come from: by MD5 from a store of AYS, by SHA-256 from one of ours."""

    def __init__(self, session: Session, found: ReadList, objects: Storage | None, source: str) -> None:
        self._session = session
        self._found = found
        self._objects = objects
        self._source = source
        self._wanted = found.wanted()
        named = {path: entry for path, entry in found.entries.items() if path not in found.digests}
        sizes = transfer.sizes(named, source)
        sizes.pop(EMPTY_SHA256, None)
        there = session.has(sizes)
        self._absent = {digest: size for digest, size in sizes.items() if digest not in there}

    def count(self) -> tuple[int, int]:
        """Return how many contents are to be read, and their bytes."""
        return (
            len(self._wanted) + len(self._absent),
            sum(self._wanted.values()) + sum(self._absent.values()),
        )

    def check(self) -> None:
        """Raise Missing if a content is not to be had anywhere."""
        if self._wanted:
            if self._objects is None:
                raise UsageError(
                    f"{self._source} names {plural(len(self._wanted), 'content')} by MD5, of no store",
                    hint="--objects DIR or URL: the store that the list was made for",
                )
            self._check_theirs(AysStore(self._objects), self._objects.url)
        if self._absent:
            lacking = set(self._absent)
            if self._objects is not None:
                lacking -= ContentStore(self._objects).has(lacking)
            if lacking:
                url = self._objects.url if self._objects else self._session.store.storage.url
                raise transfer.lacking(url, self._found.entries, lacking)

    def _check_theirs(self, theirs: AysStore, url: str) -> None:
        missing = theirs.missing(named.digest for named in self._wanted)
        if not missing:
            return
        firsts = self._found.firsts()
        rows = [
            f"{theirs.why_missing(named.digest).message} ({shown_path(firsts[named])})"
            for named in self._wanted
            if named.digest in missing
        ]
        message = f"{url} lacks {plural(len(missing), 'content')} of the list"
        raise Missing(message, detail=few(rows), hint=FIND_CONTENT)

    def take(self, advance: Advance) -> FileList:
        """Store all contents; return the entries with the SHA-256 of each."""
        if any(entry.sha256 == EMPTY_SHA256 for entry in self._found.entries.values()):
            self._session.put(b"", EMPTY_SHA256)
        if self._absent:
            assert self._objects is not None
            ours = ContentStore(self._objects)
            with lease_to_read(ours.storage, f"import {self._source}"):
                transfer.copy(ours, self._session, self._absent, advance)
        if not self._wanted:
            return dict(self._found.entries)
        assert self._objects is not None
        return resolve(self._found, self._taker(AysStore(self._objects), self._objects.at_once, advance))

    def _taker(self, theirs: AysStore, at_once: int, advance: Advance) -> Callable[[Named, int], str]:
        """Return what stores a content. The small ones are read ahead, several at once."""
        ahead = parallel(partial(_read, theirs), self._wanted.items(), at_once)

        def take(named: Named, size: int) -> str:
            got = next(ahead)
            if isinstance(got, StoreError):
                raise got
            if got is None:
                with theirs.open(named.digest, size) as stream:
                    digest = self._session.put_stream(stream, size)
            else:
                digest = self._session.put(got)
            advance(1, size)
            return digest

        return take


def _read(theirs: AysStore, wanted: tuple[Named, int]) -> bytes | StoreError | None:
    """Return a content, verified; None for a large one; the error where it cannot be had."""
    named, size = wanted
    if size > transfer.LARGE:
        return None
    try:
        with theirs.open(named.digest, size) as stream:
            return stream.read()
    except StoreError as error:
        return error
