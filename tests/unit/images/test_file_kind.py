"""What an image file holds, told by content: whatever its name says, compressed or not, whole or its start."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.errors import ImageError
from buildstep.images.file_kind import kind_of, kind_of_start
from tests.servers.layouts import layer, make_layout, pack


def tarred(*names: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return raw.getvalue()


ZFS = struct.pack("<IIQQQIIQQ256s", 0, 0, 0x2F5BACBAC, 1, 0, 2, 0, 5, 0, b"a@final") + bytes(2000)
CONTENT = {
    "tar": tarred("etc", "etc/passwd"),
    "zfs": ZFS,
    "btrfs": b"btrfs-stream\0" + bytes(2000),
}
PACKERS: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, bz2.compress, lzma.compress]


@pytest.mark.parametrize("pack_", PACKERS)
@pytest.mark.parametrize("kind", CONTENT)
def test_by_content(tmp_path: Path, kind: str, pack_: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "misleading.zip"
    path.write_bytes(pack_(CONTENT[kind]))
    assert kind_of(path) == kind
    assert kind_of_start(path.read_bytes()) == kind


def test_zstd(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "x"
    path.write_bytes(zstandard.ZstdCompressor().compress(CONTENT["tar"]))
    assert kind_of(path) == "tar"


def test_layouts_and_archives_of_them(tmp_path: Path) -> None:
    make_layout(tmp_path / "layout", [layer({"f": b"x"})])
    assert kind_of(tmp_path / "layout") == "oci"
    archive = pack(tmp_path / "layout", tmp_path / "a")
    assert kind_of(archive) == "oci"
    assert kind_of_start(archive.read_bytes()) is None, "blobs may be in any order: its start does not tell"
    (tmp_path / "z").write_bytes(gzip.compress(archive.read_bytes()))
    with pytest.raises(ImageError, match="compressed OCI archive"):
        kind_of(tmp_path / "z")
    (tmp_path / "docker").write_bytes(tarred("0" * 64 + "/layer.tar", "manifest.json"))
    assert kind_of(tmp_path / "docker") == "oci", "which then says how to convert it"
    (tmp_path / "root").write_bytes(tarred(".", "./blobs", "./usr"))
    assert kind_of(tmp_path / "root") == "tar"
    (tmp_path / "dot").write_bytes(tarred(".", "./blobs", "./oci-layout"))
    assert kind_of(tmp_path / "dot") == "oci"
    assert kind_of_start((tmp_path / "dot").read_bytes()) is None


@pytest.mark.parametrize("data", [b"", b"x" * 5000, gzip.compress(b"y" * 5000), b"\x1f\x8b broken" * 100])
def test_what_is_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(ImageError):
        kind_of(path)
    assert kind_of_start(data) is None
    with pytest.raises(ImageError, match="no OCI layout"):
        kind_of(tmp_path)
    with pytest.raises(ImageError, match="cannot read"):
        kind_of(tmp_path / "missing")


def test_half_a_file_is_enough_to_tell() -> None:
    data = gzip.compress(tarred(*(f"d/{number}" for number in range(2000))))
    assert kind_of_start(data[: len(data) // 2]) == "tar"
    assert kind_of_start(data[:20]) is None
