"""A base image as a lock has it: found by what it is, and refused where it is another one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import ImageError, LockError
from buildstep.events import Bus, Event, Note
from buildstep.images.importing import Importer
from buildstep.images.interface import SourceContext
from buildstep.images.locked import LockedImage
from buildstep.images.record import ImageRecord
from buildstep.images.sources.suite_packages import SuitePackages
from buildstep.images.store import ImageStore
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.journal import open_journal
from buildstep.spec.lock import LockedBase, LockedPackage, MadeOf
from tests.unit.images.test_store import archive


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(DirectoryBackend(os.fspath(tmp_path / "pool")), bus=Bus(), environ={})


def imported(store: ImageStore, ref: str) -> ImageRecord:
    with open_journal(store.backend.state, "test") as journal:
        return Importer(store, journal).ensure(ref)[0]


def locked(record: ImageRecord, **more: Any) -> LockedImage:
    base = LockedBase(
        label=record.label, key=record.key, uuid=record.uuid, tree_digest=record.tree_digest, **more
    )
    return LockedImage(base=base, lock="m.lock.json")


def test_the_image_of_the_lock_is_taken_whatever_the_file_is_by_now(
    store: ImageStore, tmp_path: Path
) -> None:
    ref = archive(tmp_path / "base.tar", name="one")
    first = imported(store, ref)
    archive(tmp_path / "base.tar", name="another")
    assert store.find(ref) is None
    store.locked[ref] = locked(first)
    assert store.find(ref) == first
    assert imported(store, ref) == first


def test_another_file_is_refused_where_the_image_is_gone(store: ImageStore, tmp_path: Path) -> None:
    ref = archive(tmp_path / "base.tar", name="one")
    first = imported(store, ref)
    store.delete(first)
    store.locked[ref] = locked(first)
    assert store.foresee(ref) == f"{ref}, as it is locked, is not in the store"
    assert imported(store, ref).uuid == first.uuid
    store.delete(first)
    archive(tmp_path / "base.tar", name="another")
    with pytest.raises(
        LockError, match="is another one by now, and the locked one is not in the store"
    ) as caught:
        imported(store, ref)
    assert first.key in caught.value.detail
    assert store.records() == []
    (tmp_path / "base.tar").unlink()
    with pytest.raises(LockError, match=r"the base image of m\.lock\.json is gone") as caught:
        store.foresee(ref)
    assert first.tree_digest in caught.value.detail


def test_a_uuid_that_is_nowhere_is_gone(store: ImageStore) -> None:
    base = LockedBase(label="base@1", key="image:u", uuid="u", tree_digest="x")
    image = LockedImage(base=base, lock="m.lock.json")
    assert image.identity is None
    with pytest.raises(LockError), image.explained():
        raise ImageError("no such image")
    with pytest.raises(ImageError), image.explained():
        raise ImageError("no answer", retryable=True)
    with pytest.raises(LockError, match="another one by now"):
        image.check("y")
    image.check("x")


def test_a_root_of_a_suite_has_to_have_the_same_tree() -> None:
    row = LockedPackage(name="a", version="1", arch="all", sha256="", size=0, file="f", repository="r")
    base = LockedBase(label="l", key="mmdebstrap:s&x86_64", uuid="u", tree_digest="x", packages=(row,))
    image = LockedImage(base=base, lock="m.lock.json")
    with pytest.raises(LockError) as caught:
        image.check("y")
    assert "this host's tools may be others" in caught.value.hint
    LockedImage(base=replace(base, key="tar:sha256:" + "a" * 64), lock="m").check("y")


def test_a_record_keeps_what_a_root_was_made_of(store: ImageStore, tmp_path: Path) -> None:
    record = imported(store, archive(tmp_path / "base.tar", name="one"))
    row = LockedPackage(name="a", version="1", arch="all", sha256="", size=0, file="f", repository="r")
    made_of = MadeOf(epoch=5, sources={"/etc/apt/sources.list": "deb x"}, packages=(row,))
    store.write(replace(record, made_of=made_of))
    found = store.load(record.uuid)
    assert found is not None
    assert found.made_of == made_of


# -- what a root of a suite is made of ----------------------------------------------------------------------

URIS = """\
'http://deb.example/debian/pool/main/a/alpha_1%2b1_all.deb' alpha_1%3a1+1_all.deb 5 SHA256:{digest}
'http://deb.example/security/pool/b.deb' beta_2_amd64.deb 5 SHA256:{digest}
Reading package lists...
"""
STANZAS = """\
Package: alpha
Architecture: all
Version: 1:1+1
Priority: required
Filename: pool/main/a/alpha_1+1_all.deb

Package: beta
Version: 2
Architecture: amd64
Priority: important
"""


def test_packages_of_a_root_are_written_down_and_kept(tmp_path: Path) -> None:
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of "hello"
    heard: list[Event] = []
    context = SourceContext(
        cache=tmp_path, downloads=tmp_path, privileged=True, bus=Bus(heard.append), environ={},
        unpack=lambda _stream, _into: {}, apply_layer=lambda _stream, _into, _below: {}, packages=tmp_path / "cache",
    )  # fmt: skip
    found = SuitePackages(context, "suite")
    assert found.source("http://mirror") == "http://mirror"
    notes = Path(found.environ["PACKAGE_NOTES"])
    (notes / "uris").write_text(URIS.format(digest=digest))
    (notes / "stanzas").write_text(STANZAS)
    (notes / "debs/alpha_1%3a1+1_all.deb").write_text("hello")
    root = tmp_path / "root"
    (root / "etc/apt").mkdir(parents=True)
    text = "deb http://deb.example/debian suite main\ndeb http://deb.example/security suite main\n"
    (root / "etc/apt/sources.list").write_text(text)
    made = found.made_of(root, 7, 5)
    assert (made.epoch, made.newest, made.sources) == (7, 5, {"/etc/apt/sources.list": text})
    assert [(row.name, row.version, row.priority) for row in made.packages] == [
        ("alpha", "1:1+1", "required"), ("beta", "2", "important"),
    ]  # fmt: skip
    assert [row.uri for row in made.packages] == [
        "http://deb.example/debian/pool/main/a/alpha_1%2b1_all.deb", "http://deb.example/security/pool/b.deb",
    ]  # fmt: skip
    assert (tmp_path / f"cache/debs/alpha_1%3a1+1_all.deb.{digest}").read_text() == "hello"
    assert [event.text for event in heard if isinstance(event, Note)] == [
        "beta_2_amd64.deb is not kept: it is not there (No such file or directory)"
    ]
    # Without notes, of a variant that runs no hook, nothing is known.
    (notes / "uris").unlink()
    assert found.made_of(root, 7, 5).packages == ()
