"""Lists that come into a store, and lists that leave it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildstep.errors import SpecError, StoreError, UsageError
from buildstep.files import layout, open_storage, refs, transfer
from buildstep.files.ays_store import AysStore
from buildstep.files.content import LINKABLE, ContentStore, Settings
from buildstep.files.export_list import Exported, export_list
from buildstep.files.import_list import Imported, Order, import_list
from buildstep.files.interface import Damaged, Missing
from buildstep.files.lists.interface import Note, Owners, Reading
from buildstep.files.lookup import find
from buildstep.files.refs import Ref
from buildstep.files.session import Session
from buildstep.report.progress import Advance, silent
from buildstep.tree.entry import dumps
from tests.unit.files import ays
from tests.unit.files.ays import FIXTURES, fixture, md5
from tests.unit.files.stored import file, listed, new_store, put_contents, put_tree

WEB = 133


def opened(path: Path) -> ContentStore:
    return ContentStore(open_storage(f"dir:{path}", environ={}))


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return opened(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A store of AYS that a test may spoil."""
    shutil.copytree(FIXTURES, tmp_path / "theirs")
    return tmp_path / "theirs"


def brought(
    store: ContentStore,
    name: str,
    place: Path = FIXTURES,
    *,
    ref: str = "hello",
    owner: tuple[int, int] | None = None,
    **reading: object,
) -> Imported:
    order = Order(reading=Reading(source=name, **reading), ref=ref, owner=owner)  # type: ignore[arg-type]
    return import_list(store, fixture(name), open_storage(f"dir:{place}", environ={}), order)


def sent(store: ContentStore, place: Path, form: str, *, ref: str = "hello", **how: object) -> Exported:
    target = open_storage(f"dir:{place}", environ={})
    return export_list(store, find(store, ref), target, form=form, **how)  # type: ignore[arg-type]


def kinds(notes: tuple[Note, ...]) -> dict[str, int]:
    return {note.kind: note.count for note in notes}


def object_of(place: Path, digest: str) -> Path:
    return place / "files" / digest[0] / digest[1] / digest


# -- in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "paths", "new"),
    [("acme__kvstore", 10, 9), ("acme__directory", 119, 21), ("acme__proxy", 9, 3)],
)
def test_a_list_of_ays_comes_in(store: ContentStore, name: str, paths: int, new: int) -> None:
    done = brought(store, name, owners=Owners(unknown=7))
    found = find(store, "hello")
    assert done.new_objects == new
    assert found.digest == done.stored.digest
    listed = {os.fsencode(row) for row in ays.old_read_1(fixture(name))} if name != "acme__proxy" else set()
    for entry in found.entries.values():
        if entry.kind == "f":
            data = store.get(entry.sha256)
            assert len(data) == entry.size
            assert object_of(FIXTURES, md5(data)).read_bytes() == data if data else True
    if listed:
        assert len(listed) == paths
        assert {b"/" + path for path, entry in found.entries.items() if entry.kind == "f"} == {
            path.replace(b"//", b"/") for path in listed
        }
    ref = refs.get(store.storage, "hello")
    assert ref.notes["imported"] == name
    assert ref.notes["form"] == done.form


def test_what_was_odd_and_assumed_is_told(store: ContentStore) -> None:
    notes = kinds(brought(store, "acme__directory").notes)
    assert notes == {
        "double-slash": 255, "repeated": 142, "assumed": 119, "same-content": 88, "parents": 103,
    }  # fmt: skip


def test_again_nothing_is_new_and_the_ref_is_left(store: ContentStore) -> None:
    first = brought(store, "acme__kvstore")
    before = refs.get(store.storage, "hello")
    again = brought(store, "acme__kvstore")
    assert (again.new_objects, again.stored) == (0, first.stored)
    assert refs.get(store.storage, "hello").created == before.created


def test_all_contents_that_are_missing_are_named_and_nothing_is_set(
    store: ContentStore, theirs: Path
) -> None:
    rows = ays.old_read_1(fixture("acme__kvstore"))
    gone = sorted({digest for digest, _ in rows.values()})[:3]
    for digest in gone:
        object_of(theirs, digest).unlink()
    with pytest.raises(Missing, match=r"lacks 3 contents of the list") as caught:
        brought(store, "acme__kvstore", theirs)
    for digest in gone:
        first = next(path for path, row in sorted(rows.items()) if row[0] == digest)
        assert f"has no object {digest} ({first[1:]})" in caught.value.detail
    assert refs.read(store.storage, "hello") is None
    assert list(store.storage.list(layout.OBJECTS)) == list(store.storage.list(layout.PACKS)) == []


def test_what_ays_compressed_is_named_as_such(store: ContentStore, theirs: Path) -> None:
    digest = ays.old_read_1(fixture("acme__kvstore"))["/opt/acme/apps/kvstore/kv-cli"][0]
    object_of(theirs, digest).rename(f"{object_of(theirs, digest)}.bro")
    with pytest.raises(Missing, match="lacks 1 content") as caught:
        brought(store, "acme__kvstore", theirs)
    assert f"{digest}.bro, compressed with brotli" in caught.value.detail


@pytest.mark.parametrize("large", [False, True])
def test_a_damaged_content_is_named_and_nothing_is_set(
    store: ContentStore, theirs: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    if large:
        monkeypatch.setattr(transfer, "LARGE", 0)
    digest, size = ays.old_read_1(fixture("acme__kvstore"))["/opt/acme/apps/kvstore/kv-cli"]
    object_of(theirs, digest).write_bytes(b"x" * size)
    with pytest.raises(StoreError, match="1 content of the list could not be had") as caught:
        brought(store, "acme__kvstore", theirs)
    assert f"{digest} is damaged" in caught.value.detail
    assert "kvstore/kv-cli" in caught.value.detail
    assert refs.read(store.storage, "hello") is None
    shutil.copy(object_of(FIXTURES, digest), object_of(theirs, digest))
    assert brought(store, "acme__kvstore", theirs).stored.entries == 15


def test_a_faulty_list_makes_no_store(store: ContentStore, tmp_path: Path) -> None:
    order = Order(reading=Reading(source="bad"))
    with pytest.raises(SpecError, match="bad: 2 faults"):
        import_list(store, b"/../a|%s|1\n/b\n" % md5(b"a").encode(), None, order)
    assert not (tmp_path / "ours").exists()


def test_what_came_before_does_not_come_again(store: ContentStore, theirs: Path, tmp_path: Path) -> None:
    rows = ays.old_read_1(fixture("acme__kvstore"))
    digest, size = rows[max(rows)]
    object_of(theirs, digest).write_bytes(b"x" * size)
    objects = open_storage(f"dir:{theirs}", environ={})
    order = Order(reading=Reading(source="kv"), ref="hello", state=tmp_path / "state")
    with pytest.raises(StoreError, match="1 content of the list could not be had"):
        import_list(store, fixture("acme__kvstore"), objects, order)

    counts: list[int] = []

    @contextlib.contextmanager
    def begin(count: int, _size: int) -> Iterator[Advance]:
        counts.append(count)
        yield silent

    shutil.copy(object_of(FIXTURES, digest), object_of(theirs, digest))
    done = import_list(store, fixture("acme__kvstore"), objects, order, begin=begin)
    shutil.rmtree(theirs / "files")
    again = import_list(store, fixture("acme__kvstore"), objects, order, begin=begin)
    assert (counts, done.new_objects, again.stored) == ([1, 0], 1, done.stored)

    other = opened(tmp_path / "other")
    with pytest.raises(Missing, match="lacks 9 contents"):  # another store of ours has none of them
        import_list(other, fixture("acme__kvstore"), objects, order)
    elsewhere = open_storage(f"dir:{tmp_path / 'ours'}", environ={})
    with pytest.raises(Missing, match="lacks 9 contents"):  # and another store of theirs is not believed
        import_list(store, fixture("acme__kvstore"), elsewhere, order)


def test_conflicts_are_refused_or_the_last_line_counts(store: ContentStore) -> None:
    rows = fixture("acme__kvstore").splitlines(keepends=True)
    path = rows[0].split(b"|")[0]
    data = b"".join([*rows, path + b"|" + b"|".join(rows[1].split(b"|")[1:])])
    objects = open_storage(f"dir:{FIXTURES}", environ={})
    with pytest.raises(SpecError) as caught:
        import_list(store, data, objects, Order(reading=Reading()))
    assert "is not what line 1 says of it" in caught.value.detail
    done = import_list(store, data, objects, Order(reading=Reading(conflicts="last"), ref="hello"))
    assert kinds(done.notes)["overridden"] == 1
    entries = find(store, "hello").entries
    assert entries[path[1:]].sha256 == entries[rows[1].split(b"|")[0][1:]].sha256


def test_the_owner_is_the_one_that_is_given(store: ContentStore) -> None:
    brought(store, "acme__proxy", owner=(7, 8), owners=Owners(unknown=0))
    assert {(entry.uid, entry.gid) for entry in find(store, "hello").entries.values()} == {(7, 8)}


def test_without_a_store_of_the_contents(store: ContentStore) -> None:
    with pytest.raises(UsageError, match="names 9 contents by MD5, of no store") as caught:
        import_list(store, fixture("acme__kvstore"), None, Order(reading=Reading(source="kv")))
    assert "--objects" in caught.value.hint


# -- out ---------------------------------------------------------------------------------------------------


def test_a_list_that_came_in_goes_out_as_it_was(store: ContentStore, tmp_path: Path) -> None:
    brought(store, "acme__kvstore", ref="acme/kvstore")
    done = sent(store, tmp_path / "out", "ays1", ref="acme/kvstore")
    assert (done.name, done.objects, done.new_objects, done.losses) == ("acme__kvstore", 9, 9, ())
    assert (tmp_path / "out/md/acme__kvstore.flist").read_bytes() == fixture("acme__kvstore")
    for digest, _ in ays.old_read_1(fixture("acme__kvstore")).values():
        assert object_of(tmp_path / "out", digest).read_bytes() == object_of(FIXTURES, digest).read_bytes()


def tree_at(path: Path) -> Path:
    (path / "srv/empty").mkdir(parents=True)
    (path / "srv/run").write_bytes(b"#!/bin/sh\n")
    (path / "srv/run").chmod(0o755)
    (path / "srv/nothing").touch()
    (path / "srv/big").write_bytes(os.urandom(64) * (3 << 14))
    (path / "srv/link").symlink_to("run")
    (path / "etc").mkdir()
    (path / "etc/passwd").write_text(f"root:x:0:0::/:/bin/sh\nweb:x:{WEB}:33::/:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\nweb:x:33:\n")
    return path


def put(store: ContentStore, tree: Path) -> None:
    """Record a tree as `hello`, owned by the user web."""
    entries = put_tree(store, tree)
    for entry in entries.values():
        entry.uid, entry.gid, entry.text = WEB, 33, b""
    with Session(store, "test") as session:
        stored = session.put_list(entries)
        session.set_ref(Ref(name="hello", list=stored.digest, tree=stored.tree), None)


@pytest.fixture
def full(store: ContentStore, tmp_path: Path) -> ContentStore:
    store.create()
    put(store, tree_at(tmp_path / "tree"))
    return store


def test_what_the_form_cannot_say_is_refused_before_anything_is_written(
    full: ContentStore, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        sent(full, tmp_path / "out", "ays1")
    assert {fault.where for fault in caught.value.faults} == {"srv/empty", "srv/link"}
    assert not (tmp_path / "out").exists()
    done = sent(full, tmp_path / "out", "ays1", lossy=True)
    assert {note.kind for note in done.losses if note.left_out} == {"directory", "link"}
    assert done.entries == 5


def test_an_old_reader_restores_what_was_sent(full: ContentStore, tmp_path: Path) -> None:
    sent(full, tmp_path / "www/dedupe", "ays1", lossy=True, name="acme__hello")
    ays.old_restore_1(tmp_path / "www", "acme__hello", tmp_path / "old")
    for name in ("srv/run", "srv/nothing", "srv/big", "etc/passwd"):
        assert (tmp_path / "old" / name).read_bytes() == (tmp_path / "tree" / name).read_bytes()


def test_owners_have_the_names_of_the_tree_itself(full: ContentStore, tmp_path: Path) -> None:
    sent(full, tmp_path / "out", "ays3")
    rows = ays.old_read_3((tmp_path / "out/md/hello.flist").read_bytes())
    assert rows["/srv/run"][2:5] == ["web", "web", "0755"]
    assert rows["/srv/link"][-1] == "run"


@pytest.mark.parametrize("settings", [Settings(), LINKABLE, Settings(chunk_above=1 << 16)])
def test_large_contents_go_through_files(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "LARGE", 1000)
    full = new_store(tmp_path / "ours", settings)
    put(full, tree_at(tmp_path / "tree"))
    sent(full, tmp_path / "out", "ays3")
    data = (tmp_path / "tree/srv/big").read_bytes()
    assert object_of(tmp_path / "out", md5(data)).read_bytes() == data
    sent(full, tmp_path / "other", "buildstep")
    entry = find(full, "hello").entries[b"srv/big"]
    assert opened(tmp_path / "other").get(entry.sha256) == data
    assert os.listdir(tmp_path / "out/tmp") == ["swap.lock"]


def test_all_that_the_store_lacks_is_named_and_no_list_is_written(
    store: ContentStore, tmp_path: Path
) -> None:
    store.create()
    put_contents(store, {b"a": b"one"})
    entries = listed(file(b"a", b"one"), file(b"b", b"two"), file(b"c", b"two"), file(b"d", b"four"))
    (tmp_path / "list").write_bytes(dumps(entries))
    for form in ("ays3", "buildstep"):
        with pytest.raises(Missing, match="lacks 2 contents of the list") as caught:
            sent(store, tmp_path / "out", form, ref=f"file:{tmp_path}/list", name="x")
        assert "(b)" in caught.value.detail
        assert "(d)" in caught.value.detail
        assert not list(tmp_path.glob("out/md/*")) + list(tmp_path.glob("out/refs/*"))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_a_list_that_says_another_size_misleads_nobody(store: ContentStore, tmp_path: Path) -> None:
    store.create()
    put_contents(store, {b"a": b"one"})
    (tmp_path / "list").write_bytes(dumps(listed(file(b"a", b"one", size=4))))
    with pytest.raises(StoreError, match="has 3 bytes, not 4 as the list says"):
        sent(store, tmp_path / "out", "ays3", ref=f"file:{tmp_path}/list", name="x")
    assert not list(tmp_path.glob("out/md/*"))


def test_a_list_needs_a_name_and_a_place_of_its_own(full: ContentStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a store of buildstep"):
        sent(full, tmp_path / "ours", "ays3")
    (tmp_path / "list").write_bytes(dumps(find(full, "hello").entries))
    with pytest.raises(UsageError, match="has no name"):
        sent(full, tmp_path / "out", "ays3", ref=f"file:{tmp_path}/list")
    with pytest.raises(UsageError, match="is no name of a list"):
        sent(full, tmp_path / "out", "ays3", name="-x")
    assert not (tmp_path / "out").exists()


def test_from_one_store_of_ours_to_another_and_by_import(full: ContentStore, tmp_path: Path) -> None:
    done = sent(full, tmp_path / "other", "buildstep", name="copy")
    other = opened(tmp_path / "other")
    assert done.new_objects == done.objects == 5
    assert find(other, "copy").digest == find(full, "hello").digest
    assert sent(full, tmp_path / "other", "buildstep", name="copy").new_objects == 0

    third = opened(tmp_path / "third")
    order = Order(reading=Reading(source="x"), ref="back")
    data = dumps(find(full, "hello").entries)
    with pytest.raises(Missing, match="lacks 4 contents of the list"):
        import_list(third, data, None, order)
    assert import_list(third, data, other.storage, order).new_objects == 5
    assert find(third, "back").digest == find(full, "hello").digest
    assert import_list(third, data, None, order).new_objects == 0, "all of it is here"


# -- what AYS did wrong ------------------------------------------------------------------------------------


def test_ays_d08_the_list_is_written_last_and_always(
    full: ContentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later AYS left the list out where no object was missing; an earlier one never sent it."""
    calls: list[str] = []

    def recording(name: str) -> Callable[..., object]:
        real = getattr(AysStore, name)

        def call(self: AysStore, *arguments: object) -> object:
            calls.append(name)
            return real(self, *arguments)

        return call

    for name in ("add", "write_list"):
        monkeypatch.setattr(AysStore, name, recording(name))
    sent(full, tmp_path / "out", "ays3")
    assert calls == ["add"] * 5 + ["write_list"]
    (tmp_path / "out/md/hello.flist").unlink()
    done = sent(full, tmp_path / "out", "ays3")
    assert done.new_objects == 0
    assert (tmp_path / "out/md/hello.flist").exists()


def test_ays_d10_an_object_that_is_there_only_half_is_no_object(full: ContentStore, tmp_path: Path) -> None:
    """Objects were written where they are read, and a half one was taken for whole."""
    sent(full, tmp_path / "out", "ays3")
    path = object_of(tmp_path / "out", md5(b"#!/bin/sh\n"))
    path.unlink()
    path.write_bytes(b"#!/bi")
    (tmp_path / "out/md/hello.flist").unlink()
    with pytest.raises(Damaged, match="fewer than 10 bytes"):
        sent(full, tmp_path / "out", "ays3")
    assert not (tmp_path / "out/md/hello.flist").exists()
