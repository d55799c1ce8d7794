"""Write a list of ours, with its contents, to elsewhere: into a store of AYS's layout, or of ours.

What is left out is known before anything is written. Contents come first, the list last, and always: also
where the store had all contents already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from buildstep.errors import UsageError
from buildstep.files import layout, refs, transfer
from buildstep.files.ays_store import AysStore
from buildstep.files.content import ContentStore
from buildstep.files.interface import Storage
from buildstep.files.leases import reading
from buildstep.files.lists import write_list
from buildstep.files.lists.ays_lines import EMPTY_MD5, EMPTY_SHA256
from buildstep.files.lists.interface import Note, Owners, Writing
from buildstep.files.lookup import Found
from buildstep.files.parallel import parallel
from buildstep.files.refs import Ref
from buildstep.files.session import Session
from buildstep.report.progress import Begin, unseen
from buildstep.system.accounts import TABLES, numbers
from buildstep.tree.entry import Entry, FileList

OURS = "buildstep"
"""The form whose lists go to a store of ours."""
_LARGEST_TABLE = 4 << 20
_ANY_MD5 = "0" * 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was done. name: of the list there; entries: paths that it has lines for; objects, size: contents
    of it, and their bytes; new_objects: those that were not there; losses: what is not in the list."""

    url: str
    name: str
    entries: int
    objects: int
    size: int
    new_objects: int
    losses: tuple[Note, ...] = ()


def export_list(
    store: ContentStore,
    found: Found,
    target: Storage,
    *,
    form: str,
    name: str = "",
    lossy: bool = False,
    begin: Begin = unseen,
) -> Exported:
    """Write a list and its contents to a store. form: of LISTS; name: of the list there, by default the ref.

    lossy: leave out what the form cannot say. Raises SpecError with all paths that it cannot say; Missing
    that names all contents that are not in the store: then nothing is written; Damaged, StoreError,
    RefChanged, UsageError.
    """
    if not name and found.ref is None:
        raise UsageError(f"{found.name} has no name to be called by there", hint="say --name NAME")
    name = name or (found.ref.name if found.ref else "")
    with reading(store.storage, f"export {found.name}"):
        if form == OURS:
            return _to_ours(store, found, ContentStore(target), name, begin)
        return _Leaving(store, found, target, form, lossy).run(name.replace("/", "__"), begin)


def _wanted(store: ContentStore, found: Found, entries: FileList) -> dict[str, int]:
    """Return the contents of a list with their sizes. Raises Missing that names all that are not there."""
    wanted = transfer.sizes(entries, found.name)
    if missing := wanted.keys() - store.has(wanted):
        raise transfer.lacking(store.storage.url, entries, missing)
    return wanted


# -- to a store of ours ------------------------------------------------------------------------------------


def _to_ours(store: ContentStore, found: Found, target: ContentStore, name: str, begin: Begin) -> Exported:
    layout.ref_name(name)  # before anything is done
    sizes = transfer.sizes(found.entries, found.name)
    target.create()
    before = refs.read(target.storage, name)
    with Session(target, f"export {found.name}") as session:
        there = session.has(sizes)
        absent = {digest: size for digest, size in sizes.items() if digest not in there}
        if missing := absent.keys() - store.has(absent):
            raise transfer.lacking(store.storage.url, found.entries, missing)
        with begin(len(absent), sum(absent.values())) as advance:
            transfer.copy(store, session, absent, advance)
        stored = session.put_list(found.entries)
        if before is None or before.list != stored.digest:
            ref = Ref(
                name=name, list=stored.digest, tree=stored.tree, entries=stored.entries, size=stored.size,
                notes=found.ref.notes if found.ref else {},
            )  # fmt: skip
            session.set_ref(ref, before)
    return Exported(
        url=target.storage.url,
        name=name,
        entries=stored.entries,
        objects=len(sizes),
        size=sum(sizes.values()),
        new_objects=session.new_objects,
    )


# -- to a store of AYS -------------------------------------------------------------------------------------


class _Leaving:
    """A list on its way to a store of AYS's layout."""

    def __init__(self, store: ContentStore, found: Found, target: Storage, form: str, lossy: bool) -> None:
        self._store = store
        self._found = found
        self._target = target
        self._form = form
        self._owners = _owners(store, found.entries)
        self._lossy = lossy

    def run(self, name: str, begin: Begin) -> Exported:
        theirs = AysStore(self._target)
        theirs.check_name(name)
        if self._target.load(layout.MARKER) is not None:
            raise UsageError(
                f"{self._target.url} is a store of buildstep",
                hint="name a directory of its own for AYS's store",
            )
        listed = self._listed()
        wanted = _wanted(self._store, self._found, listed)
        with begin(len(wanted), sum(wanted.values())) as advance, self._target.spool() as spool:
            md5s: dict[str, str] = {EMPTY_SHA256: EMPTY_MD5}
            new = 0

            def add(content: tuple[str, bytes | Path]) -> tuple[str, str, bool]:
                digest, data = content
                md5 = _md5(data)
                added = theirs.add(md5, data)
                if isinstance(data, Path):
                    data.unlink()
                return digest, md5, added

            sent = parallel(add, transfer.contents(self._store, wanted, spool), self._target.at_once)
            for digest, md5, added in sent:
                md5s[digest] = md5
                new += added
                advance(1, wanted[digest])
        done = write_list(self._found.entries, self._form, self._writing(md5s))
        theirs.write_list(name, done.data)
        return Exported(
            url=self._target.url,
            name=name,
            entries=len(done.lines),
            objects=len(wanted),
            size=sum(wanted.values()),
            new_objects=new,
            losses=done.losses,
        )

    def _listed(self) -> FileList:
        """Return the files that the list will have. Raises SpecError for paths that it cannot have."""
        files: FileList = {path: e for path, e in self._found.entries.items() if e.kind == "f" and not e.size}

        def note(entry: Entry) -> str:
            files[entry.path] = entry
            return _ANY_MD5

        writing = Writing(md5=note, lossy=self._lossy, owners=self._owners)
        write_list(self._found.entries, self._form, writing)
        return files

    def _writing(self, md5s: Mapping[str, str]) -> Writing:
        return Writing(md5=lambda e: md5s[e.sha256], lossy=self._lossy, owners=self._owners)


def _md5(data: bytes | Path) -> str:
    new = partial(hashlib.md5, usedforsecurity=False)
    if isinstance(data, bytes):
        return new(data).hexdigest()
    with data.open("rb") as stream:
        return hashlib.file_digest(stream, new).hexdigest()


def _owners(store: ContentStore, entries: FileList) -> Owners:
    """Return the names that the tree's own tables have, for forms that tell owners by name."""
    tables = {}
    for what, name in TABLES.items():
        entry = entries.get(name.encode())
        if entry is not None and entry.kind == "f" and entry.size <= _LARGEST_TABLE:
            tables[what] = numbers(store.get(entry.sha256))
    return Owners(users=tables.get("user", {}), groups=tables.get("group", {}))
