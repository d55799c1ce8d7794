"""ZFS by its command alone, as on a system whose libzfs_core has no binding for Python; on a real pool.

With it go the options that illumos' `zfs` has and no others: no `-u` for create and rename.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import DatasetError
from buildstep.formats.zfs_stream import BEGIN_SIZE, read_begin
from buildstep.pool.interface import Kind
from buildstep.pool.zfs import ZfsBackend
from buildstep.pool.zfs_library import AlreadyThere, Busy, InUse, ZfsCommand
from buildstep.system import host
from buildstep.tree.entry import tree_digest
from tests.integration.pools import IMAGE, IN_GUEST, KEY, OTHER, change, command, fill, full, location

pytestmark = pytest.mark.skipif(not IN_GUEST, reason="runs in the ZFS guest")


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZfsBackend]:
    monkeypatch.setattr(host.Platform, "zfs_library", False)
    monkeypatch.setattr(host.Platform, "zfs_no_mount", ())
    with location("zfs", tmp_path) as name:
        backend = ZfsBackend(name)
        assert isinstance(backend._zfs, ZfsCommand)
        yield backend


def image(pool: ZfsBackend, ident: str = IMAGE) -> None:
    made = pool.create("import-1")
    fill(made.path)
    pool.snapshot(made, Kind.IMAGE, ident)


def test_all_that_a_build_does(pool: ZfsBackend, tmp_path: Path) -> None:
    image(pool)
    clone = pool.clone(Kind.IMAGE, IMAGE, "b1")
    change(clone.path, seed=1)
    pool.snapshot(clone, Kind.LAYER, KEY)
    top = pool.clone(Kind.LAYER, KEY, "b2")
    (top.path / "etc/last").write_text("written\n")
    expected = tree_digest(full(top.path))
    stream = tmp_path / "stream"
    with stream.open("wb") as file:
        pool.send(top, file.fileno(), origin=IMAGE)
    begin = read_begin(stream.read_bytes()[:BEGIN_SIZE])
    assert str(begin.from_guid) == pool.guid(Kind.IMAGE, IMAGE)
    # A pipe, as imports have it.
    with subprocess.Popen(["cat", os.fspath(stream)], stdout=subprocess.PIPE) as source:
        assert source.stdout is not None
        got = pool.receive("b3", source.stdout.fileno(), origin=IMAGE)
    assert tree_digest(full(got.path)) == expected
    for ident in ("b3", "b2"):
        pool.destroy(Kind.BUILD, ident)
    pool.destroy(Kind.LAYER, KEY)
    pool.destroy(Kind.IMAGE, IMAGE)
    assert [pool.idents(kind) for kind in Kind] == [[], [], []]


def test_what_it_refuses_is_told_as_the_library_tells_it(pool: ZfsBackend) -> None:
    image(pool)
    pool.clone(Kind.IMAGE, IMAGE, "b1")
    zfs, name = pool._zfs, pool.dataset
    with pytest.raises(AlreadyThere):
        zfs.clone(f"{name}/build-b1", f"{name}/{IMAGE}@final", {})
    with pytest.raises(InUse):
        zfs.destroy_snapshot(f"{name}/{IMAGE}@final")
    held = f"{name}/build-b1@final"
    zfs.snapshot(held)
    command("zfs", "hold", "somebody", held)
    assert zfs.holds(held) == ["somebody"]
    with pytest.raises(Busy):
        zfs.destroy_snapshot(held)
    command("zfs", "release", "somebody", held)
    zfs.destroy_snapshot(held)
    with pytest.raises(DatasetError):
        zfs.send(f"{name}/{OTHER}@final", None, 1)
    assert not zfs.exists(f"{name}/none")
    zfs.destroy(f"{name}/none")
    # What is still mounted could not be destroyed with the pool.
    pool.destroy(Kind.BUILD, "b1")
    pool.destroy(Kind.IMAGE, IMAGE)
