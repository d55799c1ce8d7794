"""Images as btrfs streams, written by the pipeline's one emit and received by another file system."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep import emit as emit_module
from buildstep.emit.interface import Artifact
from buildstep.errors import DatasetError, EmitError
from buildstep.pool.btrfs import BtrfsBackend
from buildstep.pool.interface import Dataset, Kind
from buildstep.pool.streams import NativeJob
from buildstep.system.output_set import Outputs
from buildstep.tree.diff import diff
from buildstep.tree.entry import tree_digest
from tests.integration.pools import IMAGE, OTHER, change, command, fill, full, location
from tests.unit import trees


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BtrfsBackend, BtrfsBackend]]:
    with (
        location("btrfs", tmp_path_factory.mktemp("first")) as first,
        location("btrfs", tmp_path_factory.mktemp("second")) as second,
    ):
        yield BtrfsBackend(first), BtrfsBackend(second)


@pytest.fixture
def pool(pools: tuple[BtrfsBackend, BtrfsBackend]) -> Iterator[BtrfsBackend]:
    yield pools[0]
    for backend in pools:
        for kind in Kind:
            for ident in backend.idents(kind):
                backend.destroy(kind, ident)


@pytest.fixture
def base(pool: BtrfsBackend) -> str:
    dataset = pool.create("import")
    fill(dataset.path)
    pool.snapshot(dataset, Kind.IMAGE, IMAGE)
    return IMAGE


def emit(
    pool: BtrfsBackend, dataset: Dataset, stem: Path, *, origin: str | None, formats: list[str]
) -> list[Artifact]:
    base = {}
    if origin is not None:
        with pool.tree(Kind.IMAGE, origin) as tree:
            base = full(tree)
    entries = full(dataset.path)
    job = trees.job(dataset.path, stem, tree=entries, changes=diff(base, entries))
    native = NativeJob(streams=pool, dataset=dataset, origin=origin)
    with Outputs() as outputs:
        written = emit_module.emit(replace(job, native=native), formats, outputs)
        outputs.commit()
    return written


def receive(pool: BtrfsBackend, artifact: Artifact, ident: str, origin: str | None) -> Dataset:
    with subprocess.Popen(["zstd", "-dc", str(artifact.path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        return pool.receive(ident, child.stdout.fileno(), origin=origin)


def test_incremental_and_full(
    pools: tuple[BtrfsBackend, BtrfsBackend], pool: BtrfsBackend, base: str, tmp_path: Path
) -> None:
    other = pools[1]
    clone = pool.clone(Kind.IMAGE, base, "b1")
    change(clone.path, seed=3)
    expected = tree_digest(full(clone.path))
    small = emit(pool, clone, tmp_path / "small", origin=base, formats=["btrfs", "tar"])
    assert [item.path.name for item in small] == ["small.btrfs.zst", "small.tar.zst"]
    assert sorted(os.listdir(tmp_path)) == ["small.btrfs.zst", "small.tar.zst"]
    assert small[0].extra["incremental"] is True
    whole = emit(pool, clone, tmp_path / "whole", origin=None, formats=["btrfs"])[0]
    assert whole.size > small[0].size

    got = receive(other, whole, "i1", None)
    assert tree_digest(full(got.path)) == expected
    other.snapshot(got, Kind.IMAGE, OTHER)
    with pytest.raises(DatasetError, match="cannot receive"):
        receive(other, small[0], "i2", None)  # its parent is not there
    assert other.idents(Kind.BUILD) == []


def test_chain_on_a_received_base(
    pools: tuple[BtrfsBackend, BtrfsBackend], pool: BtrfsBackend, base: str, tmp_path: Path
) -> None:
    other = pools[1]
    with (tmp_path / "base").open("wb") as out:
        tree = f"{pool.uri.removeprefix('btrfs:')}/image/{base}/tree"
        subprocess.run(["btrfs", "send", "-q", tree], stdout=out, check=True)
    with (tmp_path / "base").open("rb") as stream:
        other.snapshot(other.receive("i1", stream.fileno(), origin=None), Kind.IMAGE, base)
    assert other.guid(Kind.IMAGE, base) == pool.guid(Kind.IMAGE, base)
    clone = pool.clone(Kind.IMAGE, base, "b1")
    change(clone.path, seed=8)
    small = emit(pool, clone, tmp_path / "small", origin=base, formats=["btrfs"])[0]
    got = receive(other, small, "i2", base)
    assert tree_digest(full(got.path)) == tree_digest(full(clone.path))


def test_only_in_a_btrfs_pool(tmp_path: Path) -> None:
    with Outputs() as outputs, pytest.raises(EmitError, match="only be made in a btrfs pool"):
        emit_module.emit(trees.job(tmp_path, tmp_path / "x"), ["btrfs"], outputs)
    assert os.listdir(tmp_path) == []


def test_truncated_stream_leaves_nothing(pool: BtrfsBackend, base: str, tmp_path: Path) -> None:
    clone = pool.clone(Kind.IMAGE, base, "b1")
    whole = emit(pool, clone, tmp_path / "whole", origin=None, formats=["btrfs"])[0]
    raw = tmp_path / "raw"
    raw.write_bytes(subprocess.run(["zstd", "-dc", str(whole.path)], capture_output=True, check=True).stdout)
    os.truncate(raw, raw.stat().st_size // 2)
    with raw.open("rb") as stream, pytest.raises(DatasetError):
        pool.receive("i1", stream.fileno(), origin=None)
    assert pool.idents(Kind.BUILD) == ["b1"]


def test_subvolumes_inside_go_with_it(pool: BtrfsBackend, base: str) -> None:
    clone = pool.clone(Kind.IMAGE, base, "b1")
    for name in ("machines", "machines/inner"):
        command("btrfs", "subvolume", "create", str(clone.path / name))
    (clone.path / "machines/inner/file").touch()
    pool.destroy(Kind.BUILD, "b1")
    assert pool.idents(Kind.BUILD) == []
