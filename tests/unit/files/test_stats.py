"""What a store holds, counted by hand."""

from __future__ import annotations

import hashlib

from buildstep.files.content import ContentStore, Settings
from buildstep.files.refs import Ref
from buildstep.files.session import Session
from buildstep.files.stats import Pair, stats
from buildstep.tree.entry import Entry, FileList
from tests.unit.files.memory import Memory


def entries(session: Session, **files: bytes) -> FileList:
    return {
        name.encode(): Entry(name.encode(), "f", 0o644, 0, 0, len(data), session.put(data))
        for name, data in sorted(files.items())
    }


def filled(settings: Settings) -> ContentStore:
    store = ContentStore(Memory())
    store.create(settings)
    with Session(store, "put") as session:
        session.put(b"garbage")
        one = entries(session, both=b"b" * 100, own=b"o" * 10, twice=b"o" * 10)
        one[b"zlink"] = Entry(b"zlink", "f", 0o644, 0, 0, 10, one[b"own"].sha256, first=b"own")
        two = entries(session, all=b"a" * 1000, both=b"b" * 100)
        for name, listed in (("one", one), ("two", two)):
            stored = session.put_list(listed)
            session.set_ref(Ref(name=name, list=stored.digest, tree=stored.tree), None)
        session.set_ref(Ref(name="assets", contents=(session.put(b"asset"), two[b"all"].sha256)), None)
    return store


def test_what_a_store_holds() -> None:
    for settings in (
        Settings(),
        Settings(compress=False, pack_below=0),
        Settings(compress=True, pack_below=0),
    ):
        found = stats(filled(settings))
        assert found.files == (100 + 10 + 10) + (1000 + 100) + (5 + 1000)
        assert (found.contents, found.unique) == (4, 100 + 10 + 1000 + 5)
        assert (found.garbage, found.garbage_size) == (1, 7)
        store = filled(settings)
        blobs = [item for kind in ("objects/", "packs/", "lists/") for item in store.storage.list(kind)]
        assert found.stored == sum(item.size for item in blobs)
        rows = {ref.name: (ref.files, ref.size, ref.contents, ref.own, ref.shared) for ref in found.refs}
        assert rows == {
            "one": (3, 120, 2, 10, 100),
            "two": (2, 1100, 2, 0, 1100),
            "assets": (2, 1005, 2, 5, 1000),
        }
        assert found.pairs == (
            Pair(first="assets", second="two", contents=1, size=1000),
            Pair(first="one", second="two", contents=1, size=100),
        )


def test_the_largest_contents() -> None:
    first, second, *_ = stats(filled(Settings())).largest
    assert (first.digest, first.size, first.refs) == (hashlib.sha256(b"a" * 1000).hexdigest(), 1000, 2)
    assert (second.ref, second.path, second.refs) == ("one", b"both", 2)


def test_an_empty_store() -> None:
    store = ContentStore(Memory())
    store.create()
    found = stats(store)
    assert (found.files, found.unique, found.refs, found.pairs, found.largest) == (0, 0, (), (), ())
