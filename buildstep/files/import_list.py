"""Bring a list of any form, with its contents, into a store of ours.

The contents that the list names come from another store: AYS's, by MD5 (`ays_store`), or one of ours, by
SHA-256. All are known to be there before the first is read; each is verified; contents first, then the list,
then the ref.

The SHA-256 of what came by MD5 is kept on this machine, for each store that it came from: what was stored
before, also by an import that failed, does not come again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from buildstep.errors import StoreError, UsageError
from buildstep.files import layout, refs, transfer
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
from buildstep.system.files import atomic_write
from buildstep.system.private import private_dir
from buildstep.system.text import plural, shown_path
from buildstep.tree.entry import FileList


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is wanted. form: of the list, None to tell it by its first line; ref: to set, empty for none;
    owner: (uid, gid) of every path, None as the list says; state: where what came before is kept, if
    anywhere."""

    form: str | None = None
    reading: Reading
    ref: str = ""
    owner: tuple[int, int] | None = None
    state: Path | None = None


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
        came = _Came(order.state, objects)
        sources = _Sources(session, found, objects, order.reading.source, came)
        sources.check()
        try:
            with begin(*sources.count()) as advance:
                entries = sources.take(advance)
        except StoreError:
            with contextlib.suppress(StoreError):
                session.flush()  # what came stays for the next try
            came.save()
            raise
        stored = session.put_list(entries)
        came.save()
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


class _Came:
    """The SHA-256 of contents that came from a store of AYS, by MD5 and size; of each store for itself, as
    one could have other contents with the same MD5 made to deceive."""

    def __init__(self, state: Path | None, objects: Storage | None) -> None:
        self._path = None
        self._found: dict[str, str] = {}
        if state is None or objects is None:
            return
        name = hashlib.sha256(objects.url.encode()).hexdigest()[:32]
        self._path = state / "came" / f"{name}.json"
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            rows = json.loads(self._path.read_bytes()).items()
            self._found = {key: digest for key, digest in rows if layout.is_digest(digest)}

    def get(self, named: Named, size: int) -> str:
        """Return the SHA-256 of a content; empty if it never came."""
        return self._found.get(f"{named}:{size}", "")

    def add(self, named: Named, size: int, digest: str) -> None:
        self._found[f"{named}:{size}"] = digest

    def save(self) -> None:
        """Keep it, if that can be done."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                private_dir(self._path.parent)
                with atomic_write(self._path, durable=False) as stream:
                    stream.write(json.dumps(self._found).encode())


class _Sources:
    """Where the contents of a list come from: by MD5 from a store of AYS, by SHA-256 from one of ours."""

    def __init__(
        self, session: Session, found: ReadList, objects: Storage | None, source: str, came: _Came
    ) -> None:
        self._session = session
        self._found = found
        self._objects = objects
        self._source = source
        self._came = came
        known = {named: came.get(named, size) for named, size in found.wanted().items()}
        kept = session.has(set(known.values()) - {""})
        self._known = {named: digest for named, digest in known.items() if digest in kept}
        self._wanted = {named: size for named, size in found.wanted().items() if named not in self._known}
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
            return self._found.resolved(self._known)
        assert self._objects is not None
        return resolve(self._found, self._taker(AysStore(self._objects), self._objects.at_once, advance))

    def _taker(self, theirs: AysStore, at_once: int, advance: Advance) -> Callable[[Named, int], str]:
        """Return what stores a content. The small ones are read ahead, several at once."""
        ahead = parallel(partial(_read, theirs), self._wanted.items(), at_once)

        def take(named: Named, size: int) -> str:
            if named in self._known:
                return self._known[named]
            got = next(ahead)
            if isinstance(got, StoreError):
                raise got
            if got is None:
                with theirs.open(named.digest, size) as stream:
                    digest = self._session.put_stream(stream, size)
            else:
                digest = self._session.put(got)
            self._came.add(named, size, digest)
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
