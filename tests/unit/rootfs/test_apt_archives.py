"""Package files that are kept: good ones are shown, and others fetched again."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from buildstep.events import Bus, Event, Note
from buildstep.rootfs.installers.apt_archives import Archive, ArchiveStore

DATA = b"a package file"
ARCHIVE = Archive(
    uri="http://x.example/a_1_all.deb",
    name="a_1_all.deb",
    size=len(DATA),
    digest=hashlib.sha256(DATA).hexdigest(),
)


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
def kept(tmp_path: Path, heard: list[Event]) -> ArchiveStore:
    store = ArchiveStore(tmp_path, Bus(heard.append))
    (tmp_path / "download").write_bytes(DATA)
    (tmp_path / "first").mkdir()
    (tmp_path / "shown").mkdir()
    assert store.take(ARCHIVE, tmp_path / "download", tmp_path / "first") == ""
    return store


def test_one_on_a_bad_block_is_fetched_again(
    kept: ArchiveStore, heard: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept.show(ARCHIVE, tmp_path / "shown")

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(hashlib, "file_digest", fails)
    assert not kept.show(ARCHIVE, tmp_path / "shown")
    assert not kept.path(ARCHIVE).exists()
    (note,) = (event.text for event in heard if isinstance(event, Note))
    assert (
        note == "the kept package file a_1_all.deb is not readable (Input/output error); it is fetched again"
    )


def test_where_there_are_no_hard_links_it_is_copied_and_a_full_disk_is_no_such_place(
    kept: ArchiveStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = errno.EPERM

    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fails)
    assert kept.show(ARCHIVE, tmp_path / "shown")
    assert (tmp_path / "shown/a_1_all.deb").read_bytes() == DATA
    number = errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        kept.show(ARCHIVE, tmp_path / "shown")
