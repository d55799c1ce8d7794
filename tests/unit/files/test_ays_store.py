"""AYS's store: verified whatever is in it, and written so that an old reader can restore from it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path

import pytest

from buildstep.errors import StoreError, UsageError
from buildstep.files import ays_store, open_storage
from buildstep.files.ays_store import AysStore
from buildstep.files.content import ContentStore
from buildstep.files.interface import Damaged, Missing
from buildstep.files.lists import read_list, write_list
from buildstep.files.lists.interface import Named, Owners, Reading, Writing, resolve
from buildstep.files.session import Session
from buildstep.tree import entry as tree_entry
from tests.unit import trees
from tests.unit.files import ays
from tests.unit.files.ays import FIXTURES, md5

DATA = b"#!/bin/sh\necho hello\n"
NAME = md5(DATA)


def store_at(path: Path) -> AysStore:
    return AysStore(open_storage(f"dir:{path}"))


def object_at(store: AysStore, digest: str, place: str = "files") -> Path:
    assert store.storage.root is not None
    return store.storage.root / place / digest[0] / digest[1] / digest


@pytest.fixture
def store(tmp_path: Path) -> AysStore:
    made = store_at(tmp_path / "store")
    assert made.add(NAME, DATA)
    return made


def swap(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def whole(store: AysStore, digest: str, size: int) -> tuple[bytes, str]:
    with store.open(digest, size) as stream:
        data = stream.read()
        return data, stream.sha256


# -- reading -------------------------------------------------------------------------------------------


def test_what_was_added_is_where_old_readers_look(store: AysStore) -> None:
    assert object_at(store, NAME).read_bytes() == DATA
    assert whole(store, NAME, len(DATA)) == (DATA, hashlib.sha256(DATA).hexdigest())
    assert store.missing([NAME, md5(b"other")]) == {md5(b"other")}
    with pytest.raises(Missing, match=f"has no object {md5(b'other')}"):
        store.open(md5(b"other"), 5)


def test_a_file_can_be_added(store: AysStore, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (17 << 20))
    digest = md5(b"x" * (17 << 20))
    assert store.add(digest, tmp_path / "large")
    with store.open(digest, 17 << 20) as stream:
        pieces = []
        while piece := stream.read(1 << 20):
            pieces.append(len(piece))
        assert pieces == [1 << 20] * 17
        assert stream.sha256 == hashlib.sha256(b"x" * (17 << 20)).hexdigest()


def test_nothing_at_all(store: AysStore) -> None:
    assert store.add(md5(b""), b"")
    assert whole(store, md5(b""), 0) == (b"", hashlib.sha256(b"").hexdigest())


@pytest.mark.parametrize("place", ["dedupe/files", "files", "."])
def test_each_place_where_objects_were_kept(tmp_path: Path, place: str) -> None:
    store = store_at(tmp_path)
    for data in (DATA, b"two"):
        path = object_at(store, md5(data), place)
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        assert whole(store, md5(data), len(data))[0] == data
    assert store.missing([NAME, md5(b"two")]) == set()


@pytest.mark.parametrize(
    "bad", ["", "../../../etc/passwd", NAME.upper(), NAME[:-1], NAME + "0", f"{NAME}\n", f"{NAME}.bro"]
)
def test_a_name_that_is_no_md5_reaches_no_file(store: AysStore, bad: str) -> None:
    for call in (lambda: store.open(bad, 1), lambda: store.missing([bad]), lambda: store.add(bad, b"")):
        with pytest.raises(StoreError, match="is no MD5"):
            call()


def test_what_was_compressed_is_named(store: AysStore) -> None:
    object_at(store, NAME).rename(f"{object_at(store, NAME)}.bro")
    with pytest.raises(StoreError, match=rf"has files/\w/\w/{NAME}\.bro, compressed with brotli") as caught:
        store_at(store.storage.root or Path()).open(NAME, len(DATA))
    assert not isinstance(caught.value, Missing)
    assert "brotli -d" in caught.value.hint


# -- hostile and damaged -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (DATA[:-1] + b"!", "its content has the MD5"),
        (DATA[:-1], "fewer than 21 bytes"),
        (b"", "fewer than 21 bytes"),
        (DATA + b"!", "more than 21 bytes"),
    ],
)
def test_ays_d01_an_object_is_verified_before_its_end_is_handed_out(
    store: AysStore, data: bytes, why: str
) -> None:
    """Nothing was compared after a download: what the store sent was installed."""
    swap(object_at(store, NAME), data)
    with store.open(NAME, len(DATA)) as stream, pytest.raises(Damaged, match=f"{NAME} is damaged: .*{why}"):
        stream.read()
    with pytest.raises(Damaged):
        store.add(NAME, DATA)
    assert object_at(store, NAME).read_bytes() == data, "what is there is left as it is"


def test_a_large_object_is_damaged_at_its_end(store: AysStore) -> None:
    data = b"x" * (9 << 20)
    store.add(md5(data), data)
    swap(object_at(store, md5(data)), data[:-1] + b"y")
    got: list[bytes] = []
    with store.open(md5(data), len(data)) as stream, pytest.raises(Damaged):
        got.extend(iter(lambda: stream.read(1 << 20), b""))
    assert sum(map(len, got)) < len(data)


def test_a_size_that_the_list_has_wrong(store: AysStore) -> None:
    for size in (0, len(DATA) - 1, len(DATA) + 1):
        with store.open(NAME, size) as stream, pytest.raises(Damaged):
            stream.read()


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_an_object_is_a_file(store: AysStore, tmp_path: Path, kind: str) -> None:
    path = object_at(store, NAME)
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(DATA)
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert store_at(tmp_path / "store").missing([NAME]) == {NAME}
    with pytest.raises(Missing):
        store_at(tmp_path / "store").open(NAME, len(DATA))
    with pytest.raises(StoreError), store.open(NAME, len(DATA)) as stream:  # it was a file a moment ago
        stream.read()
    with pytest.raises(StoreError):
        store.add(NAME, DATA)


def test_a_content_that_is_not_what_is_said_is_not_stored(store: AysStore) -> None:
    with pytest.raises(StoreError, match=f"has the MD5 {md5(b'b')}, not {md5(b'a')}"):
        store.add(md5(b"a"), b"b")
    assert store.missing([md5(b"a"), md5(b"b")]) == {md5(b"a"), md5(b"b")}


class Growing:
    """A storage whose objects end later and later."""

    url = "test:"

    def exists(self, names: set[str]) -> set[str]:
        return set(names)

    def read(self, _name: str, _start: int = 0, count: int | None = None) -> bytes:
        assert count is not None
        return b"x" * count


def test_an_endless_object_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    store = AysStore(Growing())  # type: ignore[arg-type]
    with store.open(md5(b"x" * 10), 10) as stream, pytest.raises(Damaged, match="more than 10 bytes"):
        stream.read()
    monkeypatch.setattr(ays_store, "LARGEST_LIST", 100)
    with pytest.raises(StoreError, match="the list a of test: has over 100 bytes"):
        store.read_list("a")


# -- lists ---------------------------------------------------------------------------------------------


def test_lists_by_name(store: AysStore, tmp_path: Path) -> None:
    with pytest.raises(Missing, match="has no list acme__a"):
        store.read_list("acme__a")
    store.write_list("acme__a", b"one")
    store.write_list("acme__a", b"two")
    assert store.read_list("acme__a") == b"two"
    assert (tmp_path / "store/md/acme__a.flist").read_bytes() == b"two"
    old = tmp_path / "store/dedupe/md"
    old.mkdir(parents=True)
    (old / "acme__b.flist").write_bytes(b"three")
    (old / "notes.txt").write_bytes(b"")
    assert store.lists() == ["acme__a", "acme__b"]
    assert store.read_list("acme__b") == b"three"


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc/passwd", "a\nb", "-x", "x" * 300])
def test_a_lists_name_leads_nowhere_else(store: AysStore, name: str) -> None:
    for call in (lambda: store.read_list(name), lambda: store.write_list(name, b"")):
        with pytest.raises(UsageError, match="is no name of a list"):
            call()


# -- the fixtures, and old readers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"), [("acme__kvstore", 9), ("acme__directory", 20), ("acme__proxy", 2)]
)
def test_lists_as_ays_made_them_are_imported(name: str, count: int) -> None:
    store = store_at(FIXTURES)
    found = read_list(store.read_list(name), reading=Reading(owners=Owners(unknown=0)))
    assert store.missing(named.digest for named in found.wanted()) == set()

    def take(named: Named, size: int) -> str:
        with store.open(named.digest, size) as stream:
            stream.read()
            return stream.sha256

    entries = resolve(found, take)
    assert len({entry.sha256 for entry in entries.values() if entry.size}) == count
    assert tree_entry.loads(tree_entry.dumps(entries)) == entries
    assert len(tree_entry.tree_digest(entries)) == 64


def test_from_an_ays_store_to_ours_and_back(tmp_path: Path) -> None:
    theirs = store_at(FIXTURES)
    found = read_list(theirs.read_list("acme__kvstore"))
    ours = ContentStore(open_storage(f"dir:{tmp_path / 'ours'}"))
    ours.create()
    with Session(ours, "import") as session:

        def take(named: Named, size: int) -> str:
            with theirs.open(named.digest, size) as stream:
                return session.put_stream(stream, size)

        entries = resolve(found, take)
        assert session.new_objects == len(found.wanted()) == 9
        session.put_list(entries)

    back = store_at(tmp_path / "back")
    digests = {
        digest: md5(data) for digest, data in ours.get_many({e.sha256 for e in entries.values()} - {""})
    }
    for digest, data in ours.get_many(digests):
        assert back.add(digests[digest], data)
    done = write_list(entries, "ays1", Writing(md5=lambda entry: digests[entry.sha256]))
    back.write_list("acme__kvstore", done.data)
    assert done.losses == ()
    assert done.data == theirs.read_list("acme__kvstore")
    for digest in digests.values():
        assert object_at(back, digest).read_bytes() == object_at(theirs, digest).read_bytes()


def test_the_fixtures_are_what_their_script_makes(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "make.py", tmp_path)
    source = (tmp_path / "make.py").read_text()
    exec(
        compile(source, tmp_path / "make.py", "exec"),
        {"__name__": "__main__", "__file__": os.fspath(tmp_path / "make.py")},
    )

    def files(top: Path) -> dict[str, bytes]:
        return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}

    kept = files(FIXTURES)
    kept.pop("README.md")
    assert files(tmp_path) == kept


def test_ays_d03_what_is_there_is_not_written_again(store: AysStore) -> None:
    """Each call copied every file anew."""
    before = object_at(store, NAME).stat()
    assert store.add(NAME, DATA) is False
    after = object_at(store, NAME).stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_ino,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )
    assert list((store.storage.root or Path()).joinpath("tmp").iterdir()) == []


def test_ays_d04_what_is_pushed_is_what_a_fresh_machine_restores(tmp_path: Path) -> None:
    """Objects were pushed to one directory and read from another, and so was the list."""
    tree = tmp_path / "tree"
    (tree / "opt/acme/bin").mkdir(parents=True)
    for name, data in (("run", DATA), ("also", DATA), ("empty", b""), ("conf é", b"port 1\n")):
        (tree / "opt/acme/bin" / name).write_bytes(data)
        (tree / "opt/acme/bin" / name).chmod(0o755)
    entries = trees.scanned(tree)
    content = {
        entry.sha256: (tree / os.fsdecode(path)).read_bytes()
        for path, entry in entries.items()
        if entry.kind == "f"
    }
    store = store_at(tmp_path / "www/dedupe")
    for data in content.values():
        store.add(md5(data), data)
    done = write_list(entries, "ays1", Writing(md5=lambda entry: md5(content[entry.sha256])))
    store.write_list("acme__hello", done.data)

    ays.old_restore_1(tmp_path / "www", "acme__hello", tmp_path / "old")
    fresh = AysStore(open_storage(f"dir:{tmp_path / 'www'}"))
    found = read_list(fresh.read_list("acme__hello"))
    for path, entry in found.entries.items():
        if entry.kind == "f":
            restored = (tmp_path / "old" / os.fsdecode(path)).read_bytes()
            with fresh.open(md5(restored), entry.size) as stream:
                assert stream.read() == restored == content[entries[path].sha256]
    assert {path for path, entry in entries.items() if entry.kind == "f"} == {
        path for path, entry in found.entries.items() if entry.kind == "f"
    }


def test_the_reader_is_a_stream_like_any_other(store: AysStore) -> None:
    with store.open(NAME, len(DATA)) as stream:
        assert isinstance(stream, io.BufferedIOBase)
        assert stream.read(5) == DATA[:5]
        assert stream.read(1000) == DATA[5:]
        assert stream.read() == b""
