"""Stored compressed layers: found by key and by content, verified when touched, kept while in use."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.cache import blob_files
from buildstep.cache.blob_files import BlobRecord
from buildstep.cache.blobs import BlobStore
from buildstep.emit.interface import ArchiveStyle, Blob
from buildstep.events import Bus, Event, Note
from buildstep.formats.codecs import codec
from buildstep.pool.journal import open_journal
from buildstep.system import sealed
from buildstep.system.digest import sha256_file
from buildstep.system.locks import try_lock
from buildstep.tree import scan
from buildstep.tree.diff import Changes, diff
from tests.unit import trees

STYLE = ArchiveStyle(epoch=trees.EPOCH)


class Pool:
    """A pool's state directory, and stores in it, one for each build."""

    def __init__(self, top: Path) -> None:
        self.state = top / "state"
        self.root = top / "root"
        (self.root / "etc").mkdir(parents=True)
        for number in range(40):
            (self.root / f"etc/file{number:02d}").write_bytes(b"%d " % number * 900)
        (self.root / "etc/twin").hardlink_to(self.root / "etc/file07")
        self.stack = ExitStack()
        self.events: list[Event] = []
        self.bus = Bus(self.events.append)

    def open(self, **options: Any) -> BlobStore:
        """A build's store; the one before is closed."""
        self.stack.close()
        self.bus = Bus(self.events.append)
        journal = self.stack.enter_context(open_journal(self.state, "test"))
        values: dict[str, Any] = {"slot": "/out/hello", "style": STYLE, "bus": self.bus} | options
        return self.stack.enter_context(BlobStore(self.state, codec("gzip"), journal=journal, **values))

    def content(self, store: BlobStore, *, hashed: bool = True) -> Blob:
        tree = trees.scanned(self.root) if hashed else scan.scan(self.root)
        return store.for_content(self.root, diff({}, tree), tree, comment="proto")

    def key(self, store: BlobStore, key: str = "packages x") -> Blob:
        tree = trees.scanned(self.root)
        return store.for_key(key, self.root, diff({}, tree), tree, comment="packages")

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    made = Pool(tmp_path)
    yield made
    made.stack.close()


def test_a_layer_of_a_key_is_made_once(pool: Pool) -> None:
    first = pool.key(pool.open())
    assert sha256_file(first.path) == first.digest
    assert pool.bus.counts["layers_made"] == 1
    store = pool.open()
    again = pool.key(store)
    assert (again.path, again.digest, again.diff_id) == (first.path, first.digest, first.diff_id)
    assert "layers_made" not in pool.bus.counts
    assert store.find_key("packages x", "packages") == again
    assert store.saved > 0
    assert pool.key(store, "packages y").path != first.path


def test_codec_and_style_are_part_of_the_key(pool: Pool) -> None:
    first = pool.key(pool.open())
    assert pool.open(style=ArchiveStyle()).find_key("packages x", "") is None
    assert pool.key(pool.open(style=ArchiveStyle())).path != first.path
    assert pool.key(pool.open(style=replace(STYLE, sparse=True))).path != first.path


def test_a_fresh_build_uses_no_layer(pool: Pool) -> None:
    tree = trees.scanned(pool.root)
    first = pool.open().for_base("base x", pool.root, tree, comment="base")
    pool.key(pool.open())
    store = pool.open(fresh=True)
    again = store.for_base("base x", pool.root, tree, comment="base")
    assert (again.path, again.digest, again.new) == (first.path, first.digest, True)
    assert pool.bus.counts.pop("layers_made") == 1
    assert store.find_key("packages x", "") is None
    pool.key(store)
    assert pool.bus.counts["layers_made"] == 1


def test_a_base_is_shared_by_all_epochs_unless_it_is_younger(pool: Pool) -> None:
    tree = trees.scanned(pool.root)
    for entry in tree.values():
        entry.mtime = 1_000 * 10**9 + 5

    def layer(epoch: int | None) -> Blob:
        return pool.open(style=ArchiveStyle(epoch=epoch)).for_base("b", pool.root, tree, comment="base")

    shared = layer(None)
    assert layer(1_000).path == layer(2_000).path == shared.path
    young = layer(999)
    assert young.path != shared.path
    with tarfile.open(young.path) as tar:
        assert {member.mtime for member in tar} == {999}


def test_a_layer_of_content_is_found_whatever_it_came_from(pool: Pool) -> None:
    first = pool.content(pool.open(), hashed=False)
    again = pool.content(pool.open())
    assert (again.path, again.digest) == (first.path, first.digest)
    assert pool.bus.counts["layers_reused"] == 1
    (pool.root / "etc/file03").write_bytes(b"other")
    other = pool.content(pool.open())
    assert other.digest != first.digest
    (pool.root / "etc/file03").write_bytes(b"3 " * 900)
    assert pool.content(pool.open()).path == first.path


def test_what_looks_like_a_stored_layer_is_hashed_first(pool: Pool) -> None:
    first = pool.content(pool.open(), hashed=False)
    store = pool.open()
    assert pool.content(store, hashed=False).path == first.path
    assert pool.bus.counts["bytes_hashed"] > 0
    assert "layers_made" not in pool.bus.counts


def test_a_changed_layer_is_made_from_the_chunks_of_the_last_build(pool: Pool) -> None:
    store = pool.open()
    pool.content(store)
    store.remember()
    (pool.root / "etc/new").write_bytes(b"new")
    warm = pool.content(pool.open())
    assert pool.bus.counts["files_read"] == 1
    cold = pool.content(pool.open(fresh=True))
    assert pool.bus.counts["files_read"] > 20
    assert warm.digest == cold.digest


def test_chunks_of_a_damaged_layer_are_not_used(pool: Pool) -> None:
    store = pool.open()
    first = pool.content(store)
    store.remember()
    data = bytearray(first.path.read_bytes())
    data[len(data) // 2] ^= 1
    first.path.write_bytes(data)
    (pool.root / "etc/new").write_bytes(b"new")
    warm = pool.content(pool.open())
    assert pool.content(pool.open(fresh=True)).digest == warm.digest


@pytest.mark.parametrize(
    ("harm", "told"), [("flip", "is damaged"), ("cut", "is cut short"), ("grow", "is too long")]
)
def test_a_touched_layer_is_verified_and_made_again(pool: Pool, harm: str, told: str) -> None:
    first = pool.key(pool.open())
    data = bytearray(first.path.read_bytes())
    if harm == "flip":
        data[50] ^= 1
    elif harm == "cut":
        del data[50:]
    else:
        data += b"x"
    pool.stack.close()
    first.path.write_bytes(data)
    assert pool.open().find(first.path.name, "") is None
    assert not any("it is made again" in note for note in pool.notes), "it was only looked for"
    assert pool.key(pool.open()).digest == first.digest
    assert any(told in note and "it is made again" in note for note in pool.notes)
    assert sha256_file(first.path) == first.digest


def test_a_layer_that_is_only_touched_or_of_another_boot_stays(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pool.key(pool.open())
    os.utime(first.path, (5, 5))
    pool.key(pool.open())
    monkeypatch.setattr("buildstep.cache.blob_files.boot_id", lambda: "another boot")
    store = pool.open()
    pool.key(store)
    assert "layers_made" not in pool.bus.counts
    record = json.loads(blob_files.record_path(first.path).read_bytes())
    assert record["boot"] == "another boot"
    assert blob_files.BlobRecord.read(first.path).damage(first.path) == ""


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"digest": "x"}'])
def test_a_layer_without_a_good_record_is_made_again(pool: Pool, text: str | None) -> None:
    first = pool.key(pool.open())
    record = blob_files.record_path(first.path)
    record.unlink() if text is None else record.write_text(text)
    assert pool.key(pool.open()).digest == first.digest
    assert pool.bus.counts["layers_made"] == 1


def test_a_layer_that_is_being_removed_is_not_used(pool: Pool) -> None:
    first = pool.key(pool.open())
    pool.stack.close()
    first.path.unlink()
    assert pool.open().find(first.path.name, "") is None


def test_fields_that_are_not_known_are_ignored(pool: Pool) -> None:
    first = pool.key(pool.open())
    record = blob_files.record_path(first.path)
    sealed.write(record, sealed.read(record) | {"path": "/x", "new": True})
    assert pool.open().find(first.path.name, "c") is not None


def test_layers_with_another_digest_are_dropped(pool: Pool) -> None:
    store = pool.open()
    good, bad = pool.key(store), pool.key(store, "packages y")
    bad.path.write_bytes(b"other")
    store.drop_damaged([good, bad])
    assert good.path.exists()
    assert not any(path.exists() for path in blob_files.files_of(bad.path))


def test_removals_are_part_of_the_content(pool: Pool) -> None:
    tree = trees.scanned(pool.root)
    store = pool.open()
    plain = store.for_content(pool.root, diff({}, tree), tree, comment="")
    removing = Changes(diff({}, tree).entries, (b"etc/gone",))
    assert store.for_content(pool.root, removing, tree, comment="").digest != plain.digest


def test_a_layer_is_locked_before_it_is_looked_at(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pool.key(pool.open())
    store = pool.open()
    real, tried = blob_files.BlobRecord.read, []

    def read(path: Path) -> blob_files.BlobRecord:
        tried.append(blob_files.try_remove(path))
        return real(path)

    monkeypatch.setattr(blob_files.BlobRecord, "read", read)
    assert pool.key(store) == made
    assert tried == [False]


@pytest.mark.parametrize("make", ["key", "content"])
def test_a_new_layer_is_locked_before_it_has_its_name(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    """In place of one that is being removed as well: whoever removes it sees that it is another file."""
    store = pool.open(fresh=True)
    real, free = Path.rename, []

    def rename(path: Path, target: Path) -> Path:
        if target.suffix:
            return real(path, target)
        with try_lock(path, create=False) as unused:
            free.append(unused)
        with try_lock(blob_files.names_lock(target.parent)) as unused:
            free.append(unused)
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    made = getattr(pool, make)(store)
    assert free == [False, False]
    assert not blob_files.try_remove(made.path), "a build uses it"
    pool.stack.close()
    assert not blob_files.try_remove(made.path, unused_since=0.0), "it was used since it was looked at"
    assert blob_files.try_remove(made.path)
    assert not made.path.exists()


# -- what is believed of a stored layer --------------------------------------------------------------------


def hashed(pool: Pool) -> int:
    return pool.bus.counts.get("layer_bytes_hashed", 0)


def test_an_untouched_layer_is_not_hashed_again(pool: Pool) -> None:
    first = pool.key(pool.open())
    assert first.path.stat().st_mode & 0o777 == 0o400, "nobody writes to it by mistake"
    pool.key(pool.open())
    assert hashed(pool) == 0


def test_names_of_a_layer_that_come_and_go_do_not_make_it_be_hashed(pool: Pool, tmp_path: Path) -> None:
    first = pool.key(pool.open())
    for name in ("one", "two"):
        (tmp_path / name).hardlink_to(first.path)
        pool.key(pool.open())
        assert hashed(pool) == 0
    store = pool.open()
    pool.key(store)
    # An image takes the place of its last one: the count of names is what it was, and the ctime is not.
    (tmp_path / "three").hardlink_to(first.path)
    (tmp_path / "one").unlink()
    store.remember()
    pool.key(pool.open())
    assert hashed(pool) == 0
    for name in ("two", "three"):
        (tmp_path / name).unlink()
    pool.key(pool.open())
    assert hashed(pool) == 0
    assert "layers_made" not in pool.bus.counts


def test_what_else_touches_a_layer_makes_it_be_hashed_once(pool: Pool, tmp_path: Path) -> None:
    first = pool.key(pool.open())
    (tmp_path / "name").hardlink_to(first.path)
    first.path.chmod(0o644)
    again = pool.key(pool.open())
    assert (hashed(pool), again.digest) == (first.size, first.digest)
    # Who made it writable may still have it open: the pool has a file of its own again.
    assert again.path.stat().st_ino != (tmp_path / "name").stat().st_ino
    assert again.path.stat().st_mode & 0o777 == 0o400
    pool.key(pool.open())
    assert hashed(pool) == 0
    assert not list(pool.state.glob("blobs/.*"))


def test_an_image_that_was_edited_does_not_reach_the_next_one(pool: Pool, tmp_path: Path) -> None:
    first = pool.key(pool.open())
    name = tmp_path / "name"
    name.hardlink_to(first.path)
    pool.open().remember()
    name.chmod(0o644)
    with name.open("r+b") as file:
        file.seek(first.size // 2)
        file.write(b"edited")
    again = pool.key(pool.open())
    assert pool.bus.counts["layers_made"] == 1
    assert again.digest == first.digest == sha256_file(again.path)
    assert any("the stored layer is damaged" in note for note in pool.notes)
    assert sha256_file(name) != first.digest


def test_a_sample_finds_a_layer_whose_bytes_went(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pool.key(pool.open())
    record = BlobRecord.read(first.path)
    assert record.known(first.path)
    # As a disk that lost them would: nothing that lstat says changed.
    other = first.path.with_name("other")
    other.write_bytes(bytes(first.size))
    info = first.path.lstat()
    monkeypatch.setattr(Path, "lstat", lambda _path: info)
    assert not record.known(other)


def test_a_layer_of_an_older_version_gets_its_sums(pool: Pool) -> None:
    first = pool.key(pool.open())
    record = replace(BlobRecord.read(first.path), sums="")
    record.save(first.path)
    pool.key(pool.open())
    assert hashed(pool) == first.size
    pool.key(pool.open())
    assert hashed(pool) == 0
