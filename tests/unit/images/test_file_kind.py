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
from buildstep.images.file_kind import FileKind, check_kind, kind_of, kind_of_start
from tests.servers.layouts import layer, make_layout, make_saved, pack


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
    assert kind_of(tmp_path / "z") == "oci"
    (tmp_path / "root").write_bytes(tarred(".", "./blobs", "./usr"))
    assert kind_of(tmp_path / "root") == "tar"
    (tmp_path / "dot").write_bytes(tarred(".", "./blobs", "./oci-layout"))
    assert kind_of(tmp_path / "dot") == "oci"
    assert kind_of_start((tmp_path / "dot").read_bytes()) is None


@pytest.mark.parametrize("style", ["legacy", "skopeo", "kaniko", "jib"])
@pytest.mark.parametrize("pack_", PACKERS)
def test_archives_of_docker_save(tmp_path: Path, style: str, pack_: Callable[[bytes], bytes]) -> None:
    made = make_saved(tmp_path / "x", {"a:1": [layer({"f": b"x"})], "b:1": [layer({"g": b"y"})]}, style=style)
    made.write_bytes(pack_(made.read_bytes()))
    assert kind_of(made) == "docker-archive"
    assert kind_of_start(made.read_bytes()) is None


@pytest.mark.parametrize("pack_", PACKERS)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_layout_beside_the_manifest_of_docker(
    tmp_path: Path, backwards: bool, pack_: Callable[[bytes], bytes]
) -> None:
    """As Docker writes them since version 25: either scheme will do, and without one it is a layout."""
    path = make_saved(tmp_path / "x", {"a:1": [layer({"f": b"x"})], "b:1": [layer({"g": b"y"})]})
    if backwards:
        with tarfile.open(path) as archive:
            members = [(member, archive.extractfile(member)) for member in reversed(archive.getmembers())]
            with tarfile.open(tmp_path / "y", "w") as out:
                for member, content in members:
                    out.addfile(member, content)
        path = tmp_path / "y"
    path.write_bytes(pack_(path.read_bytes()))
    assert kind_of(path) == "oci"
    schemes: tuple[FileKind, ...] = ("oci", "docker-archive")
    for scheme in schemes:
        check_kind(path, scheme)
    with pytest.raises(ImageError, match="is an OCI layout") as caught:
        check_kind(path, "tar")
    assert caught.value.hint == f"write oci:{path}"


def test_a_layout_is_no_archive_of_docker(tmp_path: Path) -> None:
    make_layout(tmp_path / "layout", [layer({"f": b"x"})])
    path = pack(tmp_path / "layout", tmp_path / "a")
    with pytest.raises(ImageError, match="is an OCI layout, not an archive of `docker save`"):
        check_kind(path, "docker-archive")


def test_an_archive_of_docker_before_1_10(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(tarred("0" * 64 + "/layer.tar", "0" * 64 + "/json", "repositories"))
    assert kind_of(tmp_path / "old") == "docker-archive"


def test_a_root_file_system_with_such_names_is_one(tmp_path: Path) -> None:
    path = tmp_path / "root"
    for names in (["manifest.json", "etc/passwd"], ["repositories", "usr"], ["x.tar", "manifest.json"]):
        path.write_bytes(tarred(*names))
        assert kind_of(path) == "tar"


@pytest.mark.parametrize(
    "data", [b"", b"x" * 5000, gzip.compress(b"y" * 5000, mtime=0), b"\x1f\x8b broken" * 100]
)
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
