"""Layers that came with base images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.cache import base_layers
from buildstep.cache.base_layers import BaseLayer
from buildstep.cache.blob_files import BlobRecord
from buildstep.system.digest import sha256_bytes
from buildstep.system.files import Slice

DATA = b"a layer" * 100


def layer(data: bytes = DATA) -> BaseLayer:
    digest = sha256_bytes(data)
    return BaseLayer(digest=digest, size=len(data), media_type="x+gzip", diff_id=digest)


def kept(state: Path) -> dict[str, bytes]:
    rows = [
        (BlobRecord.read(path.with_suffix("")), path.with_suffix("")) for path in state.glob("blobs/*.json")
    ]
    return {record.digest: path.read_bytes() for record, path in rows}


@pytest.mark.parametrize("own", [True, False])
def test_a_layer_is_taken_once(tmp_path: Path, own: bool) -> None:
    source = tmp_path / "download"
    source.write_bytes(DATA)
    place = Slice(path=source, offset=0, size=len(DATA))
    assert not base_layers.is_there(tmp_path, layer())
    base_layers.keep(tmp_path, layer(), place, own=own)
    base_layers.keep(tmp_path, layer(), place, own=own)
    assert base_layers.is_there(tmp_path, layer())
    assert kept(tmp_path) == {layer().digest: DATA}
    assert source.exists() is not own
    assert len(list((tmp_path / "blobs").iterdir())) == 2, "the layer and its record"


def test_a_part_of_an_archive_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.write_bytes(b"before" + DATA + b"after")
    base_layers.keep(tmp_path, layer(), Slice(path=source, offset=6, size=len(DATA)), own=False)
    assert kept(tmp_path) == {layer().digest: DATA}


def test_one_that_is_cut_short_is_not_there_and_taken_again(tmp_path: Path) -> None:
    source = tmp_path / "download"
    source.write_bytes(DATA)
    place = Slice(path=source, offset=0, size=len(DATA))
    base_layers.keep(tmp_path, layer(), place, own=False)
    (path,) = (p for p in (tmp_path / "blobs").iterdir() if not p.suffix)
    os.truncate(path, 5)
    assert not base_layers.is_there(tmp_path, layer())
    base_layers.keep(tmp_path, layer(), place, own=False)
    assert kept(tmp_path) == {layer().digest: DATA}


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    place = Slice(path=tmp_path / "missing", offset=0, size=len(DATA))
    with pytest.raises(FileNotFoundError):
        base_layers.keep(tmp_path, layer(), place, own=False)
    assert list((tmp_path / "blobs").iterdir()) == []


def test_those_that_no_image_has_go(tmp_path: Path) -> None:
    for data in (DATA, b"other"):
        source = tmp_path / "download"
        source.write_bytes(data)
        base_layers.keep(tmp_path, layer(data), Slice(path=source, offset=0, size=len(data)), own=True)
    base_layers.remove_unused(tmp_path, {layer().digest})
    assert kept(tmp_path) == {layer().digest: DATA}
