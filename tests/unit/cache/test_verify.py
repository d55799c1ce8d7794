"""What `cache verify` finds among the small files of a pool, and what is left after it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.cache import blob_files, verify
from buildstep.cache.blob_files import BlobRecord
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.interface import Backend
from buildstep.system import framed, sealed
from buildstep.system.digest import sha256_file
from buildstep.system.locks import lock

NAME = "a" * 64


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return DirectoryBackend(os.fspath(tmp_path / "pool"))


def put(backend: Backend, path: str, content: bytes = b"") -> Path:
    place = backend.state / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return place


def put_blob(backend: Backend) -> Path:
    path = put(backend, f"blobs/{NAME}", b"layer")
    BlobRecord(
        digest=sha256_file(path), size=5, diff_id="", media_type="", comment="about", key="", seconds=0.0,
        stamp=(), boot="",
    ).save(path)  # fmt: skip
    return path


def test_a_compressed_layer_is_compared_with_its_record(backend: Backend) -> None:
    path = put_blob(backend)
    put(backend, "blobs/" + "b" * 64)  # it is being written
    assert list(verify.compressed_layers(backend)) == []
    path.write_bytes(b"layes")
    (found,) = verify.compressed_layers(backend)
    assert (found.kind, found.name, found.about, found.problem, found.file) == (
        "blob", NAME, "about", "damaged", path,
    )  # fmt: skip
    assert found.mend is not None
    with lock(path, shared=True):
        assert not found.mend(), "a build uses it"
    assert found.mend()
    assert not any(item.exists() for item in blob_files.files_of(path))
    path = put_blob(backend)
    blob_files.record_path(path).write_text("{")
    (found,) = verify.compressed_layers(backend)
    assert found.file == blob_files.record_path(path)


@pytest.mark.parametrize(
    ("path", "look", "good"),
    [
        (f"blobs/{NAME}.parts", verify.chunks, "framed"),
        (f"blobs/{NAME}.shape", verify.chunks, ""),
        (f"blobs/{NAME}.last", verify.chunks, "framed"),
        ("index/x.idx", verify.indexes, "framed"),
        ("resolved/x.json", verify.resolutions, "sealed"),
        ("artifacts/x.json", verify.outputs, "sealed"),
        ("artifacts/tree-x.bin", verify.trees, "framed"),
        ("filehash.json", verify.archive_digests, "sealed"),
    ],
)
def test_each_small_file_is_compared_with_its_digest(
    backend: Backend, path: str, look: verify.Verifier, good: str
) -> None:
    place = put(backend, path, good.encode())
    if good == "framed":
        with place.open("wb") as stream:
            framed.write(stream, ["one"])
            framed.write(stream, ["two"])
    elif good == "sealed":
        sealed.write(place, {"format": 1})
    assert list(look(backend)) == []
    data = place.read_bytes()
    wrong = [data + b"x"]
    if data:
        wrong += [
            data[:-1],
            bytes([data[0] ^ 128]) + data[1:],
            data[:-2] + bytes([data[-2] ^ 128]) + data[-1:],
        ]
    for content in wrong:
        place.write_bytes(content)
        (found,) = look(backend)
        assert found.file == place
        assert found.mend is not None
        assert found.mend()
        assert list(look(backend)) == []
