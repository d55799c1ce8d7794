"""Archives that a content store has are taken from there; one that fails is done without."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from buildstep.assets.interface import Details
from buildstep.assets.local_contents import LocalContents
from buildstep.assets.names import Name
from buildstep.errors import StoreError
from buildstep.files import open_storage
from buildstep.files.content import ContentStore, Settings
from buildstep.files.session import Session
from tests.servers.fixtures import Notes
from tests.unit.assets.pulling import MemoryAssets, pulled, simple, tree
from tests.unit.files.stored import new_store

NAME = Name("web", "1", ".tar.gz")


@pytest.fixture
def bus() -> Notes:
    return Notes()


@pytest.fixture
def contents(tmp_path: Path) -> ContentStore:
    """A content store with the archive of web 1."""
    found = new_store(tmp_path / "contents", Settings())
    with Session(found, "test") as session:
        session.put(simple("web 1"))
        session.flush()
    return found


def unread(call: str, name: str) -> None:
    if (call, name) == ("read", NAME.file):
        raise StoreError("it was read")


def store(contents: ContentStore, tmp_path: Path, bus: Notes) -> tuple[LocalContents, MemoryAssets]:
    inner = MemoryAssets(before=unread)
    inner.add(NAME.file, simple("web 1"))
    inner.add("web-2.tar.gz", simple("web 2"))
    return LocalContents(inner, contents, bus, tmp_path), inner


def test_d11_unchanged_content_does_not_come_by_the_network(
    contents: ContentStore, tmp_path: Path, bus: Notes
) -> None:
    local, inner = store(contents, tmp_path, bus)
    report = pulled(local, tmp_path / "srv")
    assert report.failed == []
    assert tree(tmp_path / "srv") == {"web/1/run": "web 1", "web/2/run": "web 2"}
    assert pulled(inner, tmp_path / "srv").installed == 0  # the marks name the store of assets


@pytest.mark.parametrize("sha256", ["", hashlib.sha256(b"another").hexdigest()])
def test_what_it_does_not_have_is_read_from_the_store(
    contents: ContentStore, tmp_path: Path, bus: Notes, sha256: str
) -> None:
    local, inner = store(contents, tmp_path, bus)
    inner.objects[NAME.file].details = Details(sha256=sha256, size=5)
    with local.open(NAME) as incoming, pytest.raises(StoreError, match="it was read"):
        incoming.read()


def test_a_damaged_content_store_is_told_once_and_done_without(
    contents: ContentStore, tmp_path: Path, bus: Notes
) -> None:
    local, inner = store(contents, tmp_path, bus)
    for path in (tmp_path / "contents").rglob("*"):
        if path.is_file() and "pack" in os.fspath(path.relative_to(tmp_path)):
            path.write_bytes(b"damaged")
    inner.before = lambda _call, _name: None
    for _ in range(2):
        with local.open(NAME) as incoming:
            assert incoming.read() == simple("web 1")
    assert len(bus.texts) == 1
    assert bus.texts[0].startswith("nothing is taken from ")


def test_where_there_is_no_store_the_assets_come_all_the_same(tmp_path: Path, bus: Notes) -> None:
    local, inner = store(ContentStore(open_storage(f"dir:{tmp_path}/none")), tmp_path, bus)
    inner.before = lambda _call, _name: None
    with local.open(NAME) as incoming:
        assert incoming.read() == simple("web 1")
