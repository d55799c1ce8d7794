"""An image as a directory: the layout, layers taken without a copy, and a directory that appears as a whole."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep import emit
from buildstep.emit.interface import Artifact, Blob, EmitJob
from buildstep.errors import EmitError
from buildstep.events import Bus
from buildstep.formats.codecs import codec
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.spec import OciPlatform
from buildstep.system import output_set
from buildstep.system.output_set import Outputs
from buildstep.tree.diff import diff
from buildstep.tree.entry import FileList
from tests.unit import trees
from tests.unit.written_layers import write_layer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    (top / "etc").mkdir(parents=True)
    (top / "etc/motd").write_bytes(b"hello\n")
    (top / "tool").write_bytes(os.urandom(300_000))
    return top


def write(job: EmitJob, *formats: str) -> list[Artifact]:
    with Outputs() as outputs:
        artifacts = emit.emit(job, formats, outputs)
        outputs.commit()
    return artifacts


def stored(root: Path, path: Path) -> tuple[Blob, FileList]:
    """A layer as the pool keeps it: of an earlier build, and nobody may write to it."""
    tree = trees.scanned(root)
    blob, _ = write_layer(
        root, diff({}, tree), path, codec=codec("gzip"), style=trees.job(root, path).style, bus=Bus()
    )
    path.chmod(0o400)
    return replace(blob, new=False), tree


def contents(folder: Path) -> dict[str, bytes]:
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_directory_holds_a_layout_and_nothing_else(root: Path, tmp_path: Path) -> None:
    (made,) = write(trees.job(root, tmp_path / "bits/hello-1.0.0"), "oci-dir")
    assert made.path == tmp_path / "bits/hello-1.0.0.oci"
    assert os.listdir(tmp_path / "bits") == ["hello-1.0.0.oci"]
    files = contents(made.path)
    assert made.size == sum(map(len, files.values()))
    assert json.loads(files.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    index = files.pop("index.json")
    digests = (hashlib.sha1(index).hexdigest(), hashlib.sha256(index).hexdigest(), len(index))
    assert (made.sha1, made.sha256, made.extra["index_size"]) == digests
    assert all(name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}" for name, data in files.items())
    (row,) = json.loads(index)["manifests"]
    assert row["annotations"] == {
        "io.containerd.image.name": "hello:1.0.0",
        "org.opencontainers.image.ref.name": "1.0.0",
    }
    layout = open_layout(made.path, "it")
    image = layout.image(layout.find("1.0.0"), OciPlatform.here())
    assert [layer.digest for layer in image.layers] == made.extra["layers"]
    assert len(files) == 3


def test_both_forms_are_of_one_image(root: Path, tmp_path: Path) -> None:
    made_once: list[int] = []
    lower, tree = stored(root, tmp_path / "lower")

    def coming() -> Any:
        made_once.append(1)
        yield lower

    (root / "new").write_bytes(b"new")
    now = trees.scanned(root)
    job = replace(trees.job(root, tmp_path / "bits/x-1", tree=now, changes=diff(tree, now)), more=coming())
    archive, folder = write(job, "oci", "oci-dir")
    assert made_once == [1]
    assert archive.extra["digest"] == folder.extra["digest"]
    assert archive.extra["layers"] == folder.extra["layers"]
    assert emit.main_artifact([folder, archive]) is archive, (
        "the manifest describes a file where there is one"
    )
    assert emit.main_artifact([folder]) is folder
    assert (archive.sha1 != "", folder.sha1 != "") == (True, True)


def test_a_stored_layer_is_not_copied(root: Path, tmp_path: Path) -> None:
    lower, tree = stored(root, tmp_path / "lower")
    bus = Bus()
    (made,) = write(trees.job(root, tmp_path / "bits/x-1", tree=tree, layers=(lower,), bus=bus), "oci-dir")
    placed = made.path / "blobs/sha256" / lower.digest
    assert placed.read_bytes() == lower.path.read_bytes()
    assert "layer_bytes_hashed" not in bus.counts
    if placed.stat().st_ino == lower.path.stat().st_ino:
        assert "layer_bytes_copied" not in bus.counts
        assert placed.stat().st_mode & 0o777 == 0o444, "who may read an archive may read this"


@pytest.mark.parametrize("why", ["writable", "other mount"])
def test_a_layer_that_may_not_have_a_second_name_is_copied(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    lower, tree = stored(root, tmp_path / "lower")
    if why == "writable":
        lower.path.chmod(0o644)
    else:
        monkeypatch.setattr("os.link", _refused)
    monkeypatch.setattr("buildstep.system.share.clone", lambda *_: False)
    bus = Bus()
    (made,) = write(trees.job(root, tmp_path / "bits/x-1", tree=tree, layers=(lower,), bus=bus), "oci-dir")
    assert (made.path / "blobs/sha256" / lower.digest).read_bytes() == lower.path.read_bytes()
    assert lower.path.stat().st_nlink == 1
    assert bus.counts["layer_bytes_copied"] == lower.size


def _refused(*_: object, **__: object) -> None:
    raise OSError(18, "Invalid cross-device link")


def test_paranoid_hashes_every_stored_layer(root: Path, tmp_path: Path) -> None:
    lower, tree = stored(root, tmp_path / "lower")
    for form in ("oci", "oci-dir"):
        bus = Bus()
        job = trees.job(root, tmp_path / "bits/x-1", tree=tree, layers=(lower,), bus=bus)
        write(replace(job, paranoid=True), form)
        assert bus.counts["layer_bytes_hashed"] == lower.size


@pytest.mark.parametrize("able", [True, False])
def test_a_new_directory_takes_the_place_of_an_old_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    if not able:

        def no(*_: object) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(output_set, "exchange", no)
    (old,) = write(trees.job(root, tmp_path / "bits/x-1"), "oci-dir")
    before = contents(old.path)
    (root / "etc/motd").write_bytes(b"other\n")
    (new,) = write(trees.job(root, tmp_path / "bits/x-1"), "oci-dir")
    assert new.path == old.path
    assert contents(new.path) != before
    assert os.listdir(tmp_path / "bits") == ["x-1.oci"]
    with Outputs() as outputs:
        emit.emit(trees.job(root, tmp_path / "bits/x-1"), ["oci-dir"], outputs)
        outputs.write(tmp_path / "bits/x-1.imgmanifest", b"{}")
        outputs.at_commit(_fail, held=_nothing())
        (root / "etc/motd").write_bytes(b"third\n")
        now = contents(new.path)
        with pytest.raises(EmitError, match="not now"):
            outputs.commit()
        assert contents(new.path) == now
    assert os.listdir(tmp_path / "bits") == ["x-1.oci"]


def _fail() -> None:
    raise EmitError("not now")


def _nothing() -> Any:
    from contextlib import ExitStack

    return ExitStack()


def test_a_directory_of_others_is_not_replaced(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bits/x-1.oci").mkdir(parents=True)
    (tmp_path / "bits/x-1.oci/mine").write_bytes(b"mine")
    with pytest.raises(EmitError, match="it is no OCI layout"):
        write(trees.job(root, tmp_path / "bits/x-1"), "oci-dir")
    assert contents(tmp_path / "bits") == {"x-1.oci/mine": b"mine"}


def test_a_failure_leaves_nothing(root: Path, tmp_path: Path) -> None:
    (root / "etc/.wh.motd").touch()
    with pytest.raises(EmitError, match="cannot be part"):
        write(trees.job(root, tmp_path / "bits/x-1"), "oci-dir")
    assert os.listdir(tmp_path / "bits") == []
