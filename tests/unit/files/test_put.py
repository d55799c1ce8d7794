"""A tree is recorded: what is new of it, in the right order, and nothing that is not there."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import StoreError, UsageError
from buildstep.events import Bus, Event, Note
from buildstep.files import catalogue, last_put, layout, pack, read_tree, refs
from buildstep.files.content import LINKABLE, ContentStore
from buildstep.files.interface import Missing
from buildstep.files.lookup import find
from buildstep.files.put import Options, Put, put_tree
from buildstep.files.read_tree import FileChanged
from buildstep.files.refs import NoRef, Ref
from buildstep.files.session import Session
from buildstep.report.progress import Advance, Begin
from buildstep.tree import scan
from buildstep.tree.entry import Entry, tree_digest
from buildstep.tree.hashing import hash_entries, spread_digests
from tests.unit.files.memory import Memory

pytestmark = pytest.mark.commands("find")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub/empty").mkdir(parents=True)
    (top / "a").write_bytes(b"first")
    (top / "same").write_bytes(b"first")
    (top / "none").touch()
    (top / "sub/large").write_bytes(os.urandom(300_000))
    os.link(top / "a", top / "sub/linked")
    (top / "link").symlink_to("nowhere")
    os.mkfifo(top / "pipe", 0o620)
    (top / "a").chmod(0o4755)
    (top / os.fsdecode(b"odd\xff\n")).write_bytes(b"odd")
    return top


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def store(memory: Memory) -> ContentStore:
    found = ContentStore(memory)
    found.create()
    return found


def grown_old(tree: Path) -> None:
    """Wait until no file of a tree could change without a trace."""
    while time.time_ns() - max(os.lstat(path).st_ctime_ns for path in (tree, *tree.rglob("*"))) < 50_000_000:
        time.sleep(0.01)


def record(
    store: ContentStore, tree: Path, ref: str = "tree", *, state: Path | None = None, **how: object
) -> Put:
    return put_tree(store, tree, ref=ref, options=Options(**how), state=state)  # type: ignore[arg-type]


def scanned(tree: Path) -> dict[bytes, Entry]:
    entries = scan.scan(tree)
    hash_entries(tree, entries.values())
    spread_digests(entries)
    return entries


def test_the_list_is_that_of_the_tree(store: ContentStore, tree: Path) -> None:
    done = record(store, tree)
    entries = scanned(tree)
    assert store.get_list(done.stored.digest) == entries
    assert done.stored.tree == tree_digest(entries)
    assert done.stored.entries == len(entries)
    assert done.new_objects == 4, "each content once"
    for path, item in entries.items():
        if item.kind == "f":
            assert store.get(item.sha256) == (tree / os.fsdecode(path)).read_bytes()


def test_a_second_time_nothing_is_read_or_written(
    store: ContentStore, memory: Memory, tree: Path, tmp_path: Path
) -> None:
    grown_old(tree)
    first = record(store, tree, state=tmp_path / "state")
    before = {name for name in memory.blobs if not name.startswith(layout.LEASES)}
    again = record(ContentStore(memory), tree, state=tmp_path / "state")
    assert again.unchanged
    assert again.stored == first.stored
    assert (again.new_objects, again.read) == (0, 0)
    assert set(memory.blobs) == before
    assert not record(ContentStore(memory), tree, state=tmp_path / "state", clamp=5).unchanged


def test_a_second_time_names_are_looked_for_and_no_list_or_index_is_read(
    store: ContentStore, memory: Memory, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown_old(tree)
    record(store, tree, state=tmp_path / "state")
    again = ContentStore(memory)
    monkeypatch.setattr(again, "read_list", lambda _digest: pytest.fail("the list is read"))
    monkeypatch.setattr(pack, "read_index", lambda _tail: pytest.fail("an index is read"))
    assert record(again, tree, state=tmp_path / "state").unchanged


def test_packs_that_were_written_anew_are_found_once_and_noted(
    store: ContentStore, memory: Memory, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown_old(tree)
    first = record(store, tree, state=tmp_path / "state")
    [name] = [name for name in memory.blobs if name.startswith(layout.PACKS)]
    data = memory.read(name)
    rows = pack.read_index(lambda count: data[-count:]).rows
    with Session(store, "again") as session:
        writer = pack.PackWriter(session.spool / "new", compress=False)
        for digest in rows:
            writer.add(digest, store.get(digest))
        session.add_packs([writer.finish()])
    memory.delete([name])
    catalogue.change(memory, remove=[name.rsplit("/", 1)[1].removesuffix(".pack")])
    again = record(ContentStore(memory), tree, state=tmp_path / "state")
    assert again.unchanged
    assert again.stored.digest == first.stored.digest
    assert again.stored.blobs != first.stored.blobs
    once_more = ContentStore(memory)
    monkeypatch.setattr(once_more, "read_list", lambda _digest: pytest.fail("the list is read"))
    assert record(once_more, tree, state=tmp_path / "state").unchanged


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_a_tree_that_is_new_is_recorded_as_one_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(read_tree, "FEW", 10)
    monkeypatch.setattr("buildstep.system.workers.cores", lambda: cores)
    top = tmp_path / "new"
    (top / "b").mkdir(parents=True)
    (top / "a").mkdir()
    for number in range(60):
        (top / f"b/{number}").write_bytes(b"%d" % (number % 30))
    for number in range(0, 60, 7):
        os.link(top / f"b/{number}", top / f"a/linked{number}")
    os.link(top / "b/3", tmp_path / "outside")
    (top / "large").write_bytes(os.urandom(200_000))
    (top / "left.o").write_bytes(b"left out")
    memory = Memory()
    store = ContentStore(memory)
    store.create()
    calls: list[int] = []
    done = put_tree(
        store, top, ref="new", options=Options(exclude=("*.o",)), state=None, begin=counting(calls)
    )
    (top / "left.o").unlink()
    entries = scanned(top)
    found = store.get_list(done.stored.digest)
    found[b""].mtime = entries[b""].mtime
    assert found == entries
    assert done.new_objects == 31
    assert done.read == 61
    assert calls == [61, 61], "what is told at the beginning comes about"


def counting(calls: list[int]) -> Begin:
    """A progress that adds to `calls` how many files there are, and how many were read."""

    @contextlib.contextmanager
    def begin(count: int, _size: int) -> Iterator[Advance]:
        done = 0

        def advance(count: int, _size: int = 0) -> None:
            nonlocal done
            done += count

        yield advance
        calls.extend([count, done])

    return begin


def test_what_changed_is_read_and_nothing_else(store: ContentStore, tree: Path, tmp_path: Path) -> None:
    grown_old(tree)
    record(store, tree, state=tmp_path / "state")
    (tree / "new").write_bytes(b"new")
    (tree / "none").write_bytes(b"some")
    grown_old(tree)
    again = record(store, tree, state=tmp_path / "state")
    assert (again.new_objects, again.read) == (2, 2)
    assert store.get_list(again.stored.digest) == scanned(tree)


def test_another_store_gets_all_of_it(store: ContentStore, tree: Path, tmp_path: Path) -> None:
    grown_old(tree)
    first = record(store, tree, state=tmp_path / "state")
    other = ContentStore(Memory())
    other.create()
    done = record(other, tree, state=tmp_path / "state")
    assert done.new_objects == first.new_objects
    assert done.stored == first.stored


def test_a_list_that_was_deleted_is_stored_again(
    store: ContentStore, memory: Memory, tree: Path, tmp_path: Path
) -> None:
    grown_old(tree)
    first = record(store, tree, state=tmp_path / "state")
    for name in [
        name for name in memory.blobs if name.startswith((layout.LISTS, layout.PACKS, layout.OBJECTS))
    ]:
        memory.delete([name])
    memory.put(layout.CATALOGUE, b"buildstep-packs 1\n")
    again = record(ContentStore(memory), tree, state=tmp_path / "state")
    assert again.new_objects == first.new_objects
    assert ContentStore(memory).get_list(first.stored.digest) == scanned(tree)


def test_a_content_that_went_is_stored_again_though_its_list_is_there(
    store: ContentStore, memory: Memory, tree: Path, tmp_path: Path
) -> None:
    grown_old(tree)
    first = record(store, tree, state=tmp_path / "state")
    memory.put(layout.CATALOGUE, b"buildstep-packs 1\n")
    again = record(ContentStore(memory), tree, state=tmp_path / "state")
    assert 0 < again.new_objects < first.new_objects
    assert not again.unchanged
    assert record(ContentStore(memory), tree, state=tmp_path / "state").unchanged


def test_a_young_tree_is_not_trusted(
    store: ContentStore, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file could change again in the same tick of the kernel's clock."""
    monkeypatch.setattr(last_put, "GRAIN_NS", 3_600_000_000_000)
    record(store, tree, state=tmp_path / "state")
    assert not record(store, tree, state=tmp_path / "state").unchanged


@pytest.mark.parametrize("few", [0, 1000])
def test_a_state_that_cannot_be_written_to_is_told(
    memory: Memory, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """What is kept makes the next put quick, and no put needs it."""
    monkeypatch.setattr(read_tree, "FEW", few)
    monkeypatch.setattr("buildstep.system.workers.cores", lambda: 2)
    said: list[Event] = []
    store = ContentStore(memory, bus=Bus(said.append))
    store.create()
    (tmp_path / "state").write_bytes(b"no directory")
    done = record(store, tree, state=tmp_path / "state")
    assert store.get_list(done.stored.digest) == scanned(tree)
    [note] = said
    assert isinstance(note, Note)
    assert "cannot be kept" in note.text


def test_owners_times_and_exclusions(store: ContentStore, tree: Path) -> None:
    done = record(store, tree, exclude=("/sub/", "*dd*"), owner=(7, 8), clamp=1_000_000_000)
    found = store.get_list(done.stored.digest)
    assert {(item.uid, item.gid) for item in found.values()} == {(7, 8)}
    assert {item.mtime for item in found.values()} == {1_000_000_000 * 10**9}
    assert set(found) == {b"", b"a", b"same", b"none", b"link", b"pipe"}


def test_a_pattern_that_is_not_understood_is_refused(store: ContentStore, tree: Path) -> None:
    with pytest.raises(UsageError, match="understood: - x"):
        record(store, tree, exclude=("ok", "- x"))


def test_a_tree_that_is_none(store: ContentStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no directory"):
        record(store, tmp_path / "missing")


def test_a_file_that_changes_meanwhile_ships_nothing(
    store: ContentStore, memory: Memory, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = read_tree.read_file

    def slow(path: bytes, size: int, mtime: int) -> bytes:
        if path.endswith(b"/same"):
            (tree / "same").write_bytes(b"longer now")
        return real(path, size, mtime)

    monkeypatch.setattr(read_tree, "read_file", slow)
    with pytest.raises(FileChanged, match="same changed"):
        record(store, tree)
    assert not [name for name in memory.blobs if name.startswith((layout.REFS, layout.LISTS, layout.LEASES))]


def test_many_files_are_read_by_several_processes(
    store: ContentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_tree, "FEW", 10)
    monkeypatch.setattr(pack, "TARGET", 20_000)
    monkeypatch.setattr(pack, "FRAME", 4000)
    monkeypatch.setattr("buildstep.system.workers.cores", lambda: 3)
    top = tmp_path / "many"
    top.mkdir()
    for number in range(300):
        (top / str(number)).write_bytes(random.Random(number % 200).randbytes((number % 200) * 10))
    done = record(store, top)
    assert done.new_objects == 200, "each content once, whoever reads it"
    assert len(store.catalogue.indexes) == 0
    store.refresh()
    assert len(store.catalogue.indexes) > 3, "packs are stored as they are complete"
    assert sum(len(index.rows) for index in store.catalogue.indexes.values()) == 200
    for item in store.get_list(done.stored.digest).values():
        if item.kind == "f":
            assert store.get(item.sha256) == (top / os.fsdecode(item.path)).read_bytes()


def test_shares_keep_a_size_together_and_are_alike() -> None:
    by_size = {size: list(range(size, 2000, 37)) for size in range(37)}
    found = read_tree.shares(by_size, 2)
    assert sorted(number for share in found for number in share) == list(range(2000))
    sizes = [{number % 37 for number in share} for share in found]
    assert not sizes[0] & sizes[1]
    assert abs(len(found[0]) - len(found[1])) < 200
    assert read_tree.shares({3: [0, 4], 2: [1, 2, 3]}, 2) == [[0, 1, 2, 3, 4]]


def test_plain_objects_of_a_store_for_links(memory: Memory, tree: Path) -> None:
    store = ContentStore(memory)
    store.create(LINKABLE)
    done = record(store, tree)
    assert done.new_objects == 4
    assert not [name for name in memory.blobs if name.startswith(layout.PACKS)]
    assert memory.read(layout.object_name(scanned(tree)[b"a"].sha256)) == b"first"


@pytest.mark.parametrize("size", [0, 1, 128 << 10, (128 << 10) + 1, (8 << 20) + 1, 20 << 20])
def test_a_content_of_any_size(store: ContentStore, size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    with Session(store, "test") as session:
        digest = session.put_stream(io.BytesIO(data), size)
        assert session.put_stream(io.BytesIO(data), size) == digest
        assert session.new_objects == 1
        assert session.has([digest]) == {digest}
        session.flush()
    reader = ContentStore(store.storage)
    assert reader.get(digest) == data
    assert reader.get(digest, 3, 10) == data[3:13]
    assert reader.get(digest, size - 5 if size > 5 else 0) == data[-5:]
    with (tmp_path / "out").open("wb", buffering=0) as out:
        assert reader.write_to(digest, out.fileno()) == size
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.parametrize("linkable", [True, False])
@pytest.mark.parametrize("size", [5, 9 << 20])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_content_of_another_size_is_not_stored(size: int, more: int, linkable: bool) -> None:
    store = ContentStore(Memory())
    store.create(LINKABLE if linkable else None)
    data = os.urandom(size + more)
    with Session(store, "test") as session:
        with pytest.raises(StoreError, match=f"a content of {size} bytes came with"):
            session.put_stream(io.BytesIO(data), size)
        assert not session.has([hashlib.sha256(data).hexdigest()])


def test_a_stream_that_gives_little_at_a_time(store: ContentStore) -> None:
    class Slow(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            return super().read(min(count, 70_000) if count is not None and count > 0 else count)

    data = os.urandom(9 << 20)
    with Session(store, "test") as session:
        for size in (200_000, 9 << 20):
            digest = session.put_stream(Slow(data[:size]), size)
            assert digest == hashlib.sha256(data[:size]).hexdigest()


def test_a_list_needs_all_its_contents(store: ContentStore) -> None:
    entries = {b"x": Entry(b"x", "f", 0o644, 0, 0, 3, "a" * 64)}
    with Session(store, "test") as session, pytest.raises(StoreError, match="1 contents of a list"):
        session.put_list(entries)


def test_a_content_that_is_missing_is_named(store: ContentStore) -> None:
    with pytest.raises(Missing, match="a" * 64):
        store.get("a" * 64)


def test_a_ref_that_somebody_changed_meanwhile(store: ContentStore, memory: Memory, tree: Path) -> None:
    refs.write(memory, Ref(name="tree"), None)
    before = refs.read(memory, "tree")
    assert before is not None
    refs.write(memory, Ref(name="tree", entries=5), before)
    with Session(store, "test") as session, pytest.raises(refs.RefChanged):
        session.set_ref(Ref(name="tree", entries=6), before)


def test_what_a_person_calls_a_list(store: ContentStore, tree: Path, tmp_path: Path) -> None:
    stored = record(store, tree, "web/1").stored
    for name in ("web/1", stored.digest, stored.tree, stored.digest[:8], stored.tree[:8]):
        found = find(store, name)
        assert found.digest == stored.digest
        assert found.entries == scanned(tree)
    (tmp_path / "list").write_bytes(store.read_list(stored.digest))
    assert find(store, f"file:{tmp_path}/list").digest == stored.digest
    for wrong in ("web/2", "web", stored.digest[:5], "f" * 64):
        with pytest.raises((NoRef, UsageError)):
            find(store, wrong)


def test_a_directory_with_other_files_is_no_store(memory: Memory) -> None:
    memory.put("somebody/else", b"")
    with pytest.raises(StoreError, match="no store of ours"):
        ContentStore(memory).create()
    with pytest.raises(StoreError, match="there is no store"):
        _ = ContentStore(Memory()).settings
