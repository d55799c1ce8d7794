"""The image store on a `dir:` pool: finding, checking and deleting images, and importing them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep import cli
from buildstep.errors import ExitCode, ImageError, SpecError
from buildstep.events import Bus, Event, Note, Progress
from buildstep.images.file_hashes import FileHashes
from buildstep.images.gc import collect
from buildstep.images.importing import Importer
from buildstep.images.interface import SourceContext, SourceImage
from buildstep.images.record import DamagedImage, ImageRecord, key_of
from buildstep.images.sources.tar import Tar
from buildstep.images.store import ImageStore
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.interface import Kind
from buildstep.pool.journal import Journal, open_journal
from buildstep.system import namespaces, sealed
from buildstep.tree.scan import fingerprint_of

UUID = "aaaaaaaa-0000-4000-8000-000000000001"


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
def store(tmp_path: Path, heard: list[Event]) -> ImageStore:
    backend = DirectoryBackend(os.fspath(tmp_path / "pool"))
    return ImageStore(backend, bus=Bus(heard.append), environ={})


@pytest.fixture
def journal(store: ImageStore) -> Iterator[Journal]:
    with open_journal(store.backend.state, "test") as opened:
        yield opened


def archive(path: Path, **files: str) -> str:
    """Write a tar archive of these files, all with the same owner and time; returns its locator."""
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.gid = len(text), os.geteuid(), os.getegid()
            tar.addfile(member, io.BytesIO(text.encode()))
    return f"tar:{path}"


def notes(heard: list[Event]) -> list[str]:
    return [event.text for event in heard if isinstance(event, Note)]


@pytest.fixture
def image(store: ImageStore, journal: Journal, tmp_path: Path) -> ImageRecord:
    record, present = Importer(store, journal).ensure(archive(tmp_path / "base.tar", name="base", other="x"))
    assert not present
    return record


def test_an_image_is_imported_once(
    store: ImageStore, journal: Journal, image: ImageRecord, tmp_path: Path
) -> None:
    assert Importer(store, journal).ensure(f"tar:{tmp_path / 'base.tar'}") == (image, True)
    assert store.records() == [image]
    assert (image.name, image.version, image.files) == ("base", "0", 3)
    with store.backend.tree(Kind.IMAGE, image.uuid) as tree:
        assert (tree / "name").read_text() == "base"
    assert sorted(store.entries(image)) == [b"", b"name", b"other"]
    assert store.backend.idents(Kind.BUILD) == []


def test_an_image_whose_record_does_not_fit_takes_no_room(
    store: ImageStore, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_record: ImageRecord, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))

    ref = archive(tmp_path / "base.tar", name="base")
    monkeypatch.setattr(ImageRecord, "save", full)
    with pytest.raises(OSError, match="No space left"):
        Importer(store, journal).ensure(ref)
    assert store.backend.idents(Kind.IMAGE) == store.backend.idents(Kind.BUILD) == []
    assert os.listdir(store.folder) == []


def test_find_by_locator_uuid_and_name(store: ImageStore, image: ImageRecord, tmp_path: Path) -> None:
    for ref in (f"tar:{tmp_path / 'base.tar'}", image.uuid, "base@0"):
        assert store.find(ref) == image
        assert store.get(ref) == image


def test_records_are_read_once_to_find_one(
    store: ImageStore, image: ImageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = store.load

    def load(uuid: str) -> ImageRecord | None:
        read.append(uuid)
        return real(uuid)

    monkeypatch.setattr(store, "load", load)
    for ref in ("base", "base@0", image.uuid):
        assert store.get(ref) == image
    assert read == [image.uuid] * 3


def test_the_newest_of_one_name_is_found(store: ImageStore, journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    old, _ = Importer(store, journal).ensure(archive(tmp_path / "base.tar", name="old"))
    new, _ = Importer(store, journal).ensure(archive(tmp_path / "new" / "base.tar", name="new"))
    assert old.uuid != new.uuid
    assert store.find("base@0") == new
    assert store.records() == [old, new]


def test_an_image_that_is_missing(store: ImageStore, image: ImageRecord, tmp_path: Path) -> None:
    assert store.find(UUID) is None
    assert store.find("base@1") is None
    assert store.find(archive(tmp_path / "b.tar", name="base", other="y")) is None
    with pytest.raises(ImageError, match="is not in the store"):
        store.get("base@1")
    with pytest.raises(ImageError, match=r"missing\.tar"):
        store.find(f"tar:{tmp_path / 'missing.tar'}")
    with pytest.raises(SpecError) as caught:
        store.find("tra:x")
    assert "did you mean tar:x?" in caught.value.detail
    with pytest.raises(ImageError, match="no source to look for it in"):
        store.foresee("base@1")
    with pytest.raises(ImageError, match="neither a uuid nor name@version") as wrong:
        store.foresee("bookworm")
    assert wrong.value.hint.startswith("did you mean mmdebstrap:bookworm? `buildstep image list`")
    assert "is not in the store" in store.foresee("scratch:")


def test_an_image_is_found_by_its_name_if_that_is_one_images(
    store: ImageStore, journal: Journal, image: ImageRecord, tmp_path: Path
) -> None:
    assert store.get(image.name) == store.get(image.uuid) == image
    with pytest.raises(ImageError, match="the image other is not in the store"):
        store.get("other")
    (tmp_path / "second").mkdir()
    twin, _ = Importer(store, journal).ensure(archive(tmp_path / "second/base.tar", name="twin"))
    assert twin.name == image.name
    with pytest.raises(ImageError, match=f"2 images in the store are named {image.name}") as wrong:
        store.get(image.name)
    assert f"{twin.uuid}  {twin.name}@{twin.version}" in wrong.value.detail
    assert store.get(f"{image.name}@{image.version}") == twin, "the newest of a version"


@pytest.mark.parametrize("text", ["", "{", '{"format": 99}', '{"format": 1, "uuid": "x"}', "[]", "7"])
def test_a_damaged_record_is_named_and_left_out(
    store: ImageStore, image: ImageRecord, heard: list[Event], text: str
) -> None:
    (store.folder / f"{UUID}.json").write_text(text)
    assert store.records() == [image]
    assert store.find(image.uuid) == image
    assert f"{UUID}.json cannot be read" in notes(heard)[0]


def test_a_record_without_its_tree_is_no_image(store: ImageStore, image: ImageRecord) -> None:
    store.backend.destroy(Kind.IMAGE, image.uuid)
    assert store.records() == []
    assert store.find(image.uuid) is None


def test_a_tree_that_was_touched_is_verified_once(
    store: ImageStore, image: ImageRecord, heard: list[Event]
) -> None:
    with store.backend.tree(Kind.IMAGE, image.uuid) as tree:
        times = (tree / "name").stat()
        os.utime(tree / "name", ns=(times.st_atime_ns, times.st_mtime_ns))
    checked = store.check(image)
    assert len(notes(heard)) == 1
    assert "was touched" in notes(heard)[0]
    assert replace(checked, fingerprint=image.fingerprint) == image
    assert checked == store.get(image.uuid)
    assert store.check(checked) == checked
    assert len(notes(heard)) == 1


def test_a_tree_that_was_changed_is_refused(store: ImageStore, image: ImageRecord) -> None:
    with store.backend.tree(Kind.IMAGE, image.uuid) as tree:
        (tree / "name").write_text("rot!")
        (tree / "more").write_text("")
    for act in (store.check, store.verify):
        with pytest.raises(DamagedImage, match="is not what was imported") as caught:
            act(image)
        assert "/more" in caught.value.detail
        assert "/name" in caught.value.detail
        assert "/other" not in caught.value.detail


def test_a_tree_that_was_changed_is_imported_again(
    store: ImageStore, journal: Journal, image: ImageRecord, tmp_path: Path, heard: list[Event]
) -> None:
    with store.backend.tree(Kind.IMAGE, image.uuid) as tree:
        (tree / "name").write_text("rot!")
    again, present = Importer(store, journal).ensure(f"tar:{tmp_path / 'base.tar'}")
    assert (again.uuid, again.tree_digest, present) == (image.uuid, image.tree_digest, False)
    assert any("is not what was imported" in text for text in notes(heard))
    with store.backend.tree(Kind.IMAGE, image.uuid) as tree:
        assert (tree / "name").read_text() == "base"
    assert store.backend.idents(Kind.BUILD) == []
    store.verify(again)


def test_a_damaged_image_that_a_build_uses_stays(
    store: ImageStore, journal: Journal, image: ImageRecord, tmp_path: Path
) -> None:
    with store.backend.tree(Kind.IMAGE, image.uuid) as tree:
        (tree / "name").write_text("rot!")
    with store.locks.using(image.uuid), pytest.raises(ImageError, match="in use by a build") as caught:
        Importer(store, journal).ensure(f"tar:{tmp_path / 'base.tar'}")
    assert caught.value.retryable
    assert store.backend.idents(Kind.IMAGE) == [image.uuid]


def test_a_damaged_image_that_cannot_be_had_again_stays(
    store: ImageStore, journal: Journal, image: ImageRecord
) -> None:
    with store.backend.tree(Kind.IMAGE, image.uuid) as tree:
        (tree / "name").write_text("rot!")
    with pytest.raises(ImageError, match="no source to look for it in"):
        Importer(store, journal).ensure(image.uuid)
    assert store.records() == [image]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_of_a_record_is_noticed(
    store: ImageStore, journal: Journal, image: ImageRecord, tmp_path: Path, place: float
) -> None:
    path = store.folder / f"{image.uuid}.json"
    good = json.loads(path.read_bytes())
    flip(path, int(path.stat().st_size * place))
    assert store.records() == []
    again, present = Importer(store, journal).ensure(f"tar:{tmp_path / 'base.tar'}")
    assert (again.uuid, again.tree_digest, present) == (image.uuid, image.tree_digest, False)
    assert json.loads(path.read_bytes()).keys() == good.keys()


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
@pytest.mark.parametrize("complete", [True, False])
def test_a_damaged_list_is_made_again(
    store: ImageStore, journal: Journal, image: ImageRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    heard: list[Event], damage: str, complete: bool,
) -> None:  # fmt: skip
    """From the tree where that has all that is in the list, else from the source."""
    monkeypatch.setattr(ImageStore, "_tree_is_complete", lambda _: complete)
    path = store.folder / f"{image.uuid}.list"
    good = path.read_bytes()
    if damage == "flip":
        flip(path, -3)  # in a time, which the tree's digest does not know
    elif damage == "cut":
        path.write_bytes(good[:100])
    else:
        path.unlink()
    if not complete:
        with pytest.raises(DamagedImage, match="file list") as caught:
            store.entries(image)
        assert f"image delete {image.uuid}" in caught.value.hint
    _, present = Importer(store, journal).ensure(f"tar:{tmp_path / 'base.tar'}")
    assert present is complete
    assert path.read_bytes() == good
    assert any(os.fspath(path) in text for text in notes(heard))


def test_an_image_of_before_records_had_a_digest_is_verified_once(
    store: ImageStore, image: ImageRecord, heard: list[Event]
) -> None:
    path = store.folder / f"{image.uuid}.json"
    old = json.loads(path.read_bytes()) | {"format": 1}
    del old["check"], old["list_digest"]
    path.write_text(json.dumps(old))
    record = store.get(image.uuid)
    assert record == replace(image, list_digest="")
    assert store.check(record) == image
    assert store.get(image.uuid) == image
    assert notes(heard) == []
    path.write_text(json.dumps(old | {"check": "0" * 64}))
    assert store.load(image.uuid) is None


def test_a_thorough_check_reads_what_nothing_touched(store: ImageStore, image: ImageRecord) -> None:
    """As where a disk forgets: no time tells of it."""
    with store.backend.tree(Kind.IMAGE, image.uuid) as tree:
        (tree / "name").write_text("rot!")
        touched = replace(image, fingerprint=fingerprint_of(tree))
    assert store.check(touched) == touched
    with pytest.raises(DamagedImage):
        store.check(touched, thorough=True)


def test_hashes_of_files_are_not_used_by_a_fresh_build(tmp_path: Path) -> None:
    file, kept = tmp_path / "file", tmp_path / "kept"
    file.write_text("1")
    info = file.stat()
    key = f"{info.st_dev}:{info.st_ino}:{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}"
    sealed.write(kept, {key: "known"})
    assert FileHashes(kept).sha256(file) == "known"
    fresh = FileHashes(kept)
    fresh.fresh = True
    assert fresh.sha256(file) == hashlib.sha256(b"1").hexdigest()
    flip(kept, 40)
    assert FileHashes(kept).sha256(file) == hashlib.sha256(b"1").hexdigest()


def test_verify_finds_a_damaged_file_list(store: ImageStore, image: ImageRecord) -> None:
    store.verify(image)
    with pytest.raises(ImageError, match="is not what was imported"):
        store.verify(replace(image, tree_digest="0" * 64))


def test_check_says_when_an_image_was_used(store: ImageStore, image: ImageRecord) -> None:
    assert store.last_used(image) == image.imported
    store.check(image)
    os.utime(store.folder / f"{image.uuid}.used", (image.imported + 5, image.imported + 5))
    assert store.last_used(image) == pytest.approx(image.imported + 5)


def test_delete(store: ImageStore, journal: Journal, image: ImageRecord, tmp_path: Path) -> None:
    store.delete(image)
    assert store.records() == []
    assert store.backend.idents(Kind.IMAGE) == []
    assert list(store.folder.iterdir()) == []
    again, present = Importer(store, journal).ensure(f"tar:{tmp_path / 'base.tar'}")
    assert (again.uuid, again.tree_digest, present) == (image.uuid, image.tree_digest, False)


def test_an_image_in_use_is_not_deleted(store: ImageStore, image: ImageRecord) -> None:
    with store.locks.using(image.uuid), pytest.raises(ImageError, match="in use by a build") as caught:
        store.delete(image)
    assert caught.value.retryable
    assert store.find(image.uuid) == image


def test_an_origin_is_not_deleted(store: ImageStore, image: ImageRecord) -> None:
    dataset = store.backend.create("x")
    store.backend.snapshot(dataset, Kind.IMAGE, UUID)
    child = store.add(replace(image, uuid=UUID, origin=image.uuid), store.entries(image))
    with pytest.raises(ImageError, match=f"is the origin of {UUID}"):
        store.delete(image)
    store.delete(child)
    store.delete(image)


def test_an_image_that_is_imported_elsewhere_is_waited_for(store: ImageStore, heard: list[Event]) -> None:
    order: list[str] = []

    def second() -> None:
        with store.locks.of_key(key_of(UUID)):
            order.append("second")

    with store.locks.of_key(key_of(UUID)), store.locks.of_key("another key"):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 10
        while not notes(heard) and time.monotonic() < deadline:
            time.sleep(0.01)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert notes(heard) == ["waiting for another import of the same image"]


def test_a_failed_import_leaves_nothing(store: ImageStore, journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    archive(path, name="x" * 5000)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ImageError):
        Importer(store, journal).ensure(f"tar:{path}")
    assert store.records() == []
    assert [store.backend.idents(kind) for kind in Kind] == [[], [], []]
    assert list((store.backend.state / "work").iterdir()) == []
    assert list((store.backend.state / "downloads").iterdir()) == []


def test_the_same_tree_from_another_file_is_another_image(
    store: ImageStore, journal: Journal, image: ImageRecord, tmp_path: Path
) -> None:
    path = tmp_path / "copy.tar"
    path.write_bytes((tmp_path / "base.tar").read_bytes())
    assert Importer(store, journal).ensure(f"tar:{path}") == (image, True), "the content is what counts"


def manifest_of(path: Path, uuid: str = UUID, **fields: object) -> Path:
    data = path.read_bytes()
    file = {"size": len(data), "sha1": hashlib.sha1(data).hexdigest(), "compression": "none"}
    value = {"v": 2, "uuid": uuid, "name": "filed", "version": "3", "type": "other", "os": "linux"}
    target = path.with_name(f"{path.name}.imgmanifest")
    target.write_text(json.dumps({**value, "files": [file], **fields}))
    return target


def test_a_file_with_its_manifest(store: ImageStore, journal: Journal, tmp_path: Path) -> None:
    archive(tmp_path / "base.tar", name="base")
    manifest = manifest_of(tmp_path / "base.tar")
    record, present = Importer(store, journal).import_file(tmp_path / "base.tar", manifest)
    assert (record.uuid, record.name, record.version, present) == (UUID, "filed", "3", False)
    assert Importer(store, journal).import_file(tmp_path / "base.tar", manifest) == (record, True)
    store.verify(record)


def test_a_file_that_is_not_the_one_of_its_manifest(
    store: ImageStore, journal: Journal, tmp_path: Path
) -> None:
    archive(tmp_path / "base.tar", name="base")
    manifest = manifest_of(tmp_path / "base.tar")
    archive(tmp_path / "base.tar", name="bose")
    with pytest.raises(ImageError, match="is not the file of its manifest") as caught:
        Importer(store, journal).import_file(tmp_path / "base.tar", manifest)
    assert "sha1" in caught.value.detail
    assert store.records() == []
    bare = manifest_of(tmp_path / "base.tar", files=[{"compression": "none"}])
    with pytest.raises(ImageError):
        Importer(store, journal).import_file(tmp_path / "base.tar", bare)


def test_another_image_of_the_same_uuid_is_refused(
    store: ImageStore, journal: Journal, tmp_path: Path
) -> None:
    archive(tmp_path / "a.tar", name="one")
    Importer(store, journal).import_file(tmp_path / "a.tar", manifest_of(tmp_path / "a.tar"))
    record = store.get(UUID)
    replace(record, tree_digest="0" * 64).save(store.folder / f"{UUID}.json")
    importer = Importer(store, journal)
    other = replace(record, key="tar:sha256:1")
    with pytest.raises(ImageError, match="another image of the uuid"):
        importer._same_image(UUID, other.tree_digest, other.key)


def test_a_tree_that_lost_its_record_is_imported_again(
    store: ImageStore, journal: Journal, image: ImageRecord, tmp_path: Path
) -> None:
    (store.folder / f"{image.uuid}.json").unlink()
    again, present = Importer(store, journal).ensure(f"tar:{tmp_path / 'base.tar'}")
    assert (again.uuid, again.tree_digest, present) == (image.uuid, image.tree_digest, False)
    assert store.backend.idents(Kind.BUILD) == []


def test_an_image_is_locked_before_it_is_verified(
    store: ImageStore, journal: Journal, image: ImageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it is removed in between, and the build finds out when it is too late."""
    real, tried = ImageStore.sound, []

    def sound(self: ImageStore, record: ImageRecord, **options: bool) -> ImageRecord | None:
        tried.append([row.removed for row in collect(self, unused_seconds=0)])
        return real(self, record, **options)

    monkeypatch.setattr(ImageStore, "sound", sound)
    with contextlib.ExitStack() as uses:
        assert Importer(store, journal, uses).ensure(image.uuid) == (image, True)
        assert tried == [[False]]
        assert [row.removed for row in collect(store, unused_seconds=0)] == [False]
    assert [row.removed for row in collect(store, unused_seconds=0)] == [True]


def test_a_new_image_stays_as_long_as_who_wanted_it(
    store: ImageStore, journal: Journal, tmp_path: Path
) -> None:
    ref = archive(tmp_path / "base.tar", name="base")
    with contextlib.ExitStack() as uses:
        record, _ = Importer(store, journal, uses).ensure(ref)
        assert [row.removed for row in collect(store, unused_seconds=0)] == [False]
        assert store.find(record.uuid) == record


def test_an_image_that_went_while_it_was_waited_for_is_imported_again(
    store: ImageStore, journal: Journal, image: ImageRecord, tmp_path: Path
) -> None:
    ref = f"tar:{tmp_path / 'base.tar'}"
    with store.locks.of_key(key_of(image.uuid)), store.locks.try_unused(image.uuid) as unused:
        assert unused
        found: list[tuple[ImageRecord, bool]] = []
        other = threading.Thread(target=lambda: found.append(Importer(store, journal).ensure(ref)))
        other.start()
        time.sleep(0.1)  # it waits for the lock by now; where it does not yet, the test is only weaker
        store.remove(image.uuid)
    other.join(10)
    ((again, present),) = found
    assert (again.uuid, present) == (image.uuid, False)
    assert store.backend.exists(Kind.IMAGE, again.uuid)


def test_an_image_that_was_used_since_it_was_looked_at_stays(store: ImageStore, image: ImageRecord) -> None:
    before = time.time()
    store.check(image)
    used = store.last_used(image) + 1
    os.utime(store.folder / f"{image.uuid}.used", (used, used))
    with pytest.raises(ImageError, match="in use by a build"):
        store.delete(image, unused_since=before)
    store.delete(image)


def test_an_archive_that_changes_while_it_is_imported_is_no_image(
    store: ImageStore, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = archive(tmp_path / "base.tar", name="base")
    real = Tar.fetch

    def fetch(self: Tar, locator: str, into: Path, context: SourceContext) -> SourceImage:
        archive(tmp_path / "base.tar", name="late")
        return real(self, locator, into, context)

    with monkeypatch.context() as patch:
        patch.setattr(Tar, "fetch", fetch)
        with pytest.raises(ImageError, match="changed while it was imported") as caught:
            Importer(store, journal).ensure(ref)
    assert caught.value.retryable
    assert store.records() == []
    assert Importer(store, journal).ensure(ref)[1] is False


def test_what_cannot_be_read_does_not_end_the_verification(
    store: ImageStore,
    journal: Journal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("first", "second"):
        Importer(store, journal).ensure(archive(tmp_path / f"{name}.tar", name=name))
    real = ImageStore.verify

    def verify(it: ImageStore, record: ImageRecord) -> None:
        if record.name == "first":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(it, record)

    monkeypatch.setattr(ImageStore, "verify", verify)
    monkeypatch.setattr(namespaces, "supported", lambda: False)  # this process would stay in them
    assert cli.main(["image", "verify", "--pool", store.backend.uri]) == ExitCode.IMAGE
    out = capfd.readouterr().out
    assert "first@0  it cannot be read: [Errno 5] Input/output error" in out
    assert "second@0  OK" in out


@pytest.mark.usefixtures("image")
def test_what_is_read_and_unpacked_of_an_archive_is_told(heard: list[Event], tmp_path: Path) -> None:
    size = (tmp_path / "base.tar").stat().st_size
    jobs = [event for event in heard if isinstance(event, Progress)]
    assert {(event.job, event.state, event.done, event.total) for event in jobs} == {
        ("read base.tar", "begin", 0, size),
        ("read base.tar", "end", size, size),
        ("unpack the image", "begin", 0, size),
        ("unpack the image", "end", size, size),
    }
