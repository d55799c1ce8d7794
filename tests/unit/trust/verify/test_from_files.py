"""What lies beside an artifact, and what it is itself: read and hashed, never unpacked."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import UsageError
from buildstep.trust.verify.from_files import artifacts_of, from_files
from tests.unit.trust.verify import signed


def packed(layout: Path, name: str) -> Path:
    path = layout.parent / name
    with tarfile.open(path, "w") as tar:
        tar.add(layout, ".")
    return path


def test_a_plain_file_with_all_that_can_lie_beside_it(tmp_path: Path) -> None:
    path, key = signed.plain(tmp_path), signed.key()
    signed.sign(path, key)
    signed.state_lines(tmp_path / "hello-1.0.0", [b"{}", b"", b"[]"])
    found = from_files(path)
    assert found.digests == {"sha256": signed.sha256(path)}
    assert [it.kind for it in found.signatures] == ["sshsig", "minisign", "bundle"]
    assert [it.where for it in found.envelopes] == [
        "hello-1.0.0.intoto.jsonl line 1", "hello-1.0.0.intoto.jsonl line 3",
    ]  # fmt: skip
    assert found.names[:2] == ("hello-1.0.0.tar.gz", "hello-1.0.0")


def test_what_has_the_whole_name_of_the_file_comes_first(tmp_path: Path) -> None:
    path = signed.plain(tmp_path)
    (tmp_path / "hello-1.0.0.sig").write_bytes(b"untrusted comment: x\nAA==\n")
    (tmp_path / f"{path.name}.sig").write_bytes(b"AAAA\n")
    (found,) = from_files(path).signatures
    assert (found.kind, found.where, found.shared) == ("raw", f"{path.name}.sig", False)
    (tmp_path / f"{path.name}.sig").unlink()
    signed.plain(tmp_path, "hello-1.0.0.zfs")
    (found,) = from_files(path).signatures
    assert (found.kind, found.where, found.shared) == ("minisign", "hello-1.0.0.sig", True)
    (tmp_path / "hello-1.0.0.zfs.sig").write_bytes(b"AAAA\n")  # so the other one is not of that
    (found,) = from_files(path).signatures
    assert not found.shared


@pytest.mark.parametrize("name", ["hello-1.0.0.oci.tar", "downloaded"])
def test_an_image_in_an_archive_whatever_its_name(tmp_path: Path, name: str) -> None:
    layout = signed.oci(tmp_path)
    path = packed(layout, name)
    found = from_files(path)
    assert found.digests == {"sha256": signed.sha256(path), "oci": signed.manifest_of(layout)}
    assert "hello:1.0.0" not in found.names  # whoever made the archive chose that
    assert "hello:1.0.0" in from_files(path, "hello:1.0.0").names
    assert (found.damage, found.created) == ("", 1793491200.0)


def test_an_archive_that_is_cut_short_is_damaged(tmp_path: Path) -> None:
    path = packed(signed.oci(tmp_path), "hello-1.0.0.oci.tar")
    path.write_bytes(path.read_bytes()[:5000])
    assert from_files(path).damage


def test_every_blob_is_hashed(tmp_path: Path) -> None:
    layout = signed.oci(tmp_path)
    for blob in sorted((layout / "blobs/sha256").iterdir()):
        data = blob.read_bytes()
        blob.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        assert "damaged" in from_files(layout).damage
        blob.write_bytes(data)
    assert from_files(layout).damage == ""


def test_an_archive_of_several_images_means_none_of_them_by_itself(tmp_path: Path) -> None:
    first, second = signed.oci(tmp_path, "a.oci"), signed.oci(tmp_path, "b.oci", layer=b"x", tag="hello:2")
    for blob in (second / "blobs/sha256").iterdir():
        (first / "blobs/sha256" / blob.name).write_bytes(blob.read_bytes())
    index = json.loads((first / "index.json").read_text())
    index["manifests"] += json.loads((second / "index.json").read_text())["manifests"]
    (first / "index.json").write_text(json.dumps(index))
    assert "oci" not in from_files(first).digests
    assert from_files(first, "2").digests["oci"] == signed.manifest_of(second)


def test_what_a_path_means(tmp_path: Path) -> None:
    image, stream = signed.plain(tmp_path), signed.plain(tmp_path, "hello-1.0.0.zfs.gz")
    other = signed.oci(tmp_path, "other-2.oci")
    (tmp_path / "hello-1.0.0.imgmanifest").write_text("{}")
    (tmp_path / "notes.txt").write_text("x")
    assert artifacts_of(tmp_path) == [image, stream, other]
    assert artifacts_of(tmp_path / "hello-1.0.0.imgmanifest") == [image, stream]
    assert artifacts_of(other) == [other]
    assert artifacts_of(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    (tmp_path / "empty").mkdir()
    for place in ("empty", "missing"):
        with pytest.raises(UsageError):
            artifacts_of(tmp_path / place)


# -- what others would read in another way


EVIL = "f" * 64


def repacked(layout: Path, *more: tuple[tarfile.TarInfo, bytes]) -> Path:
    """An archive of a layout, with members that somebody added."""
    path = packed(layout, "hello-1.0.0.oci.tar")
    with tarfile.open(path, "a") as tar:
        for info, data in more:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def member(name: str, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in more.items():
        setattr(info, key, value)
    return info


def sparse(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    """A member that is another file once its holes are filled (GNU tar's format 1.0)."""
    notes = {"major": "1", "minor": "0", "name": name, "realsize": str(len(data))}
    head = f"1\n0\n{len(data)}\n".encode().ljust(512, b"\0")
    about = member(
        f"GNUSparseFile.0/{name}", pax_headers={f"GNU.sparse.{key}": text for key, text in notes.items()}
    )
    return about, head + data


@pytest.mark.parametrize(
    "members",
    [
        [(member("x", type=tarfile.SYMTYPE, linkname="."), b""), (member("x/index.json"), b"{}")],
        [sparse("index.json", b"{}")],
        [(member("x/../../index.json"), b"{}")],
        [(member("manifest.json"), b'[{"Config": "blobs/sha256/%s", "Layers": []}]' % EVIL.encode())],
        [(member("manifest.json"), b'[{"config": "x", "Config": "y", "Layers": []}]')],
    ],
    ids=["through a link", "sparse", "out of it", "docker's", "docker's twice"],
)
def test_an_archive_that_others_read_as_another_image_is_damaged(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    layout = signed.oci(tmp_path)
    assert from_files(repacked(layout)).damage == ""
    assert "more than one way" in from_files(repacked(layout, *members)).damage


def test_an_index_that_others_read_as_another_image_is_damaged(tmp_path: Path) -> None:
    layout = signed.oci(tmp_path)
    value = json.loads((layout / "index.json").read_text())
    (row,) = value["manifests"]
    other = signed.oci(tmp_path, "other.oci", layer=b"x")
    for blob in (other / "blobs/sha256").iterdir():
        (layout / "blobs/sha256" / blob.name).write_bytes(blob.read_bytes())
    evil = json.loads((other / "index.json").read_text())["manifests"][0]
    for text in (
        json.dumps({**value, "manifests": [evil, row]}),
        json.dumps({**value, "Manifests": [evil]}),
        json.dumps({**value, "manifests": [{**row, "Digest": evil["digest"]}]}),
        json.dumps(value)[:-1] + f', "manifests": {json.dumps([row])}' + "}",
    ):
        (layout / "index.json").write_text(text)
        assert "more than one way" in from_files(layout).damage


def test_what_docker_load_reads_may_name_the_same_image(tmp_path: Path) -> None:
    layout = signed.oci(tmp_path)
    blobs = layout / "blobs/sha256"
    image = json.loads((blobs / signed.manifest_of(layout)).read_text())
    names = [f"blobs/{it['digest'].replace(':', '/')}" for it in (image["config"], *image["layers"])]
    row = {"Config": names[0], "RepoTags": ["hello:1.0.0"], "Layers": names[1:]}
    (layout / "manifest.json").write_text(json.dumps([row]))
    assert from_files(packed(layout, "hello-1.0.0.oci.tar")).damage == ""


@pytest.mark.parametrize("name", ["hello-1.0.0.tar.gz", "hello-1.0.0.sig"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hello-1.0.0.tar.gz"
    if path.name != name:
        signed.plain(tmp_path)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match=f"{name} is no regular file"):
        from_files(path)
