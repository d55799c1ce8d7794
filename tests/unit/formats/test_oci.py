"""OCI layouts and platforms: what needs no registry."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import ImageError
from buildstep.formats.oci.config import sound_config
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.spec import REF_NAME, Descriptor, OciPlatform, parse_manifest
from buildstep.images.sources.oci import Oci
from tests.servers.fixtures import Notes, bus
from tests.servers.layouts import context, layer, make_layout, pack

__all__ = ["bus"]

AMD = Oci({"BUILDSTEP_PLATFORM": "linux/amd64"})
D = "sha256:" + "a" * 64


def no_hash(_: Path) -> str:
    raise AssertionError("a layout names its content itself")


class TestLayouts:
    LOWER = layer({"etc/": b"", "etc/a": b"1", "etc/b": b"2", "opt/": b"", "opt/x": b"3"})
    UPPER = layer({"etc/.wh.a": b"", "etc/c": b"4", "opt/.wh..wh..opq": b"", "opt/y": b"5"})

    @pytest.mark.parametrize("archived", [False, True])
    def test_import(self, tmp_path: Path, bus: Notes, archived: bool) -> None:
        digest = make_layout(tmp_path / "image", [self.LOWER, self.UPPER])
        where = pack(tmp_path / "image", tmp_path / "image.oci.tar") if archived else tmp_path / "image"
        for locator in (f"{where}", f"{where}:latest"):
            assert AMD.identify(locator, no_hash).key == f"oci:{digest}"
        into = tmp_path / "tree"
        into.mkdir()
        found = AMD.fetch(str(where), into, context(tmp_path / "cache", bus))
        assert found.manifest["name"] == "image"
        assert found.config["architecture"] == "amd64"
        names = sorted(str(p.relative_to(into)) for p in into.rglob("*") if p.is_file())
        assert names == ["etc/b", "etc/c", "opt/y"]
        assert found.entries is not None
        assert sorted(found.entries) == [b"", b"etc", b"etc/b", b"etc/c", b"opt", b"opt/y"]

    @pytest.mark.parametrize("value", [["v1"], {"a": 1}, 1, None])
    def test_an_annotation_that_is_no_text_is_none(self, tmp_path: Path, value: object) -> None:
        digest = make_layout(tmp_path / "i", [self.LOWER])
        index = json.loads((tmp_path / "i/index.json").read_text())
        index["manifests"][0]["annotations"] = {REF_NAME: value}
        (tmp_path / "i/index.json").write_text(json.dumps(index))
        assert AMD.identify(f"{tmp_path}/i", no_hash).key == f"oci:{digest}"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ('{"schemaVersion": 2, "mediaType": ["x"]}', "not an OCI or Docker v2 image"),
            ("[" * 200_000, "is not JSON"),
        ],
    )
    def test_a_manifest_of_another_form(self, text: str, why: str) -> None:
        entry = Descriptor(media_type="", digest=D, size=1)
        with pytest.raises(ImageError, match=why):
            parse_manifest(text.encode(), entry, "it")

    def test_platforms(self, tmp_path: Path) -> None:
        make_layout(tmp_path / "i", [self.LOWER], platforms=["linux/arm64/v8", "linux/amd64"])
        keys = {Oci({"BUILDSTEP_PLATFORM": p}).identify(f"{tmp_path}/i", no_hash).key
                for p in ("linux/amd64", "linux/arm64")}  # fmt: skip
        assert len(keys) == 2
        with pytest.raises(ImageError, match="no image for linux/s390x") as caught:
            Oci({"BUILDSTEP_PLATFORM": "linux/s390x"}).identify(f"{tmp_path}/i", no_hash)
        assert "linux/arm64/v8, linux/amd64" in caught.value.hint
        assert OciPlatform.here().os == "linux"

    def test_damage_is_found(self, tmp_path: Path, bus: Notes) -> None:
        make_layout(tmp_path / "i", [self.LOWER])
        blob = tmp_path / "i/blobs/sha256" / hashlib.sha256(self.LOWER).hexdigest()
        # Still a good layer, but another one of the same size.
        other = bytearray(self.LOWER)
        other[4] ^= 1  # the time in gzip's header
        blob.write_bytes(other)
        into = tmp_path / "tree"
        into.mkdir()
        with pytest.raises(ImageError, match="is damaged"):
            AMD.fetch(f"{tmp_path}/i", into, context(tmp_path / "cache", bus))
        blob.write_bytes(self.LOWER[:-1])
        with pytest.raises(ImageError, match="bytes, not"):
            AMD.fetch(f"{tmp_path}/i", into, context(tmp_path / "cache", bus))
        blob.unlink()
        with pytest.raises(ImageError, match="has no blobs"):
            AMD.fetch(f"{tmp_path}/i", into, context(tmp_path / "cache", bus))

    def test_what_is_no_layout(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="there is no OCI layout"):
            AMD.identify(f"{tmp_path}/missing:tag", no_hash)
        (tmp_path / "f").write_bytes(b"\x7fELF" + bytes(2000))
        with pytest.raises(ImageError, match="damaged or not a tar"):
            AMD.identify(f"{tmp_path}/f", no_hash)
        (tmp_path / "manifest.json").write_text("[]")
        with tarfile.open(tmp_path / "twice.tar", "w") as archive:
            archive.add(tmp_path / "manifest.json", "oci-layout")
            archive.add(tmp_path / "manifest.json", "./oci-layout")
        with pytest.raises(ImageError, match="two members"):
            AMD.identify(f"{tmp_path}/twice.tar", no_hash)

    def test_tags(self, tmp_path: Path) -> None:
        make_layout(tmp_path / "i", [self.LOWER], tag="v1")
        with pytest.raises(ImageError, match="has no image 'v2'") as caught:
            open_layout(tmp_path / "i", "oci:i").find("v2")
        assert caught.value.hint == "it has v1"

    @pytest.mark.parametrize(
        "bad",
        [
            {"digest": "sha256:../../etc/passwd"},
            {"digest": "md5:1"},
            {"size": -1},
            {"size": "7"},
            {"mediaType": 5},
        ],
    )
    def test_descriptors_that_cannot_be_trusted(self, tmp_path: Path, bad: dict[str, object]) -> None:
        make_layout(tmp_path / "i", [self.LOWER])
        index = json.loads((tmp_path / "i/index.json").read_text())
        index["manifests"][0] |= bad
        (tmp_path / "i/index.json").write_text(json.dumps(index))
        with pytest.raises(ImageError):
            AMD.identify(f"{tmp_path}/i", no_hash)


@pytest.mark.parametrize(
    ("value", "left_out"),
    [
        ({"os": "linux", "config": {"Env": ["A=1"], "Labels": {"a": "b"}, "X": 7}, "other": [1]}, []),
        ({"config": None, "history": None, "variant": None}, []),
        (
            {"config": {"Env": None, "Volumes": {}, "ArgsEscaped": True}, "history": [{"empty_layer": True}]},
            [],
        ),
        ({"os": ["linux"], "architecture": 1, "os.features": "x"}, ["os", "architecture", "os.features"]),
        ({"config": ["x"], "history": [{}, 1]}, ["config", "history"]),
        ({"config": {"Env": ["A=1", 2], "Cmd": "sh"}}, ["config.Env", "config.Cmd"]),
        ({"config": {"Labels": {"a": 1}, "Volumes": []}}, ["config.Labels", "config.Volumes"]),
        (
            {"history": [{"created_by": 1}, {"empty_layer": "no"}]},
            ["history.created_by", "history.empty_layer"],
        ),
    ],
)
def test_what_a_configuration_may_not_have_is_left_out(value: dict[str, Any], left_out: list[str]) -> None:
    told: list[str] = []
    found = sound_config(value, told.append)
    assert told == left_out
    if not left_out:
        assert found == value
    assert sound_config(found, pytest.fail) == found
