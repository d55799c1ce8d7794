"""Trees in stores, for the tests of what is made of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from buildstep.files import open_storage
from buildstep.files.content import ContentStore, Settings
from buildstep.files.refs import Ref
from buildstep.files.session import Session
from buildstep.tree.entry import Entry, FileList
from tests.unit.trees import scanned


def new_store(path: Path, settings: Settings | None = None) -> ContentStore:
    store = ContentStore(open_storage(f"dir:{path}", environ={}))
    store.create(settings)
    return store


def put_tree(store: ContentStore, tree: Path, ref: str = "") -> FileList:
    """Store a tree, under a ref if one is named; its list."""
    entries = scanned(tree)
    with Session(store, "test") as session:
        for entry in entries.values():
            if entry.kind == "f" and not entry.first:
                with (tree / os.fsdecode(entry.path)).open("rb") as stream:
                    assert session.put_stream(stream, entry.size) == entry.sha256
        done = session.put_list(entries)
        if ref:
            session.set_ref(Ref(name=ref, list=done.digest, tree=done.tree), None)
    return entries


def put_contents(store: ContentStore, contents: Mapping[bytes, bytes]) -> None:
    with Session(store, "test") as session:
        for data in contents.values():
            session.put(data)
        session.flush()


def plausible(entries: FileList) -> FileList:
    """A made-up list, of whose attributes those are left out that no file has: capabilities of any bytes."""
    return {
        path: replace(entry, xattrs=tuple(pair for pair in entry.xattrs if pair[0] != b"security.capability"))
        for path, entry in entries.items()
    }


def top() -> Entry:
    return Entry(b"", "d", 0o755, os.geteuid(), os.getegid())


def file(path: bytes, data: bytes = b"", **more: object) -> Entry:
    digest = hashlib.sha256(data).hexdigest()
    entry = Entry(path, "f", 0o644, os.geteuid(), os.getegid(), len(data), digest, mtime=10**18)
    for name, value in more.items():
        setattr(entry, name, value)
    return entry


def made(path: bytes, kind: str, **more: object) -> Entry:
    entry = Entry(path, kind, 0o755, os.geteuid(), os.getegid(), mtime=10**18)
    for name, value in more.items():
        setattr(entry, name, value)
    return entry


def listed(*entries: Entry) -> FileList:
    """A list of these entries, as it may come from anybody."""
    return {entry.path: entry for entry in (top(), *entries)}
