"""Archives of `docker save`, layouts that are compressed, and files under the scheme of another kind."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.errors import ImageError
from buildstep.formats.codecs import codec
from buildstep.images import file_kind
from buildstep.images.file_kind import kind_of
from buildstep.images.importing import Importer
from buildstep.images.interface import SourceImage
from buildstep.images.sources import parse
from buildstep.images.sources.local_file import check_file
from buildstep.images.store import ImageStore
from buildstep.pool.journal import Journal
from buildstep.system.digest import sha256_file
from tests.servers.fixtures import Notes, bus
from tests.servers.layouts import context, layer, make_layout, make_saved, pack
from tests.unit.images.test_store import archive, heard, journal, manifest_of, store

__all__ = ["bus", "heard", "journal", "store"]

LOWER = gzip.decompress(layer({"etc/": b"", "etc/a": b"1", "etc/b": b"2"}))
UPPER = layer({"etc/.wh.a": b"", "etc/c": b"4"})
OTHER = gzip.decompress(layer({"other": b"5"}))
STYLES = ["legacy", "docker", "skopeo", "kaniko", "jib"]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": codec("zstd").compress,
}


def identify(ref: str) -> str:
    found = parse(ref, environ={"BUILDSTEP_PLATFORM": "linux/amd64"})
    assert found is not None
    return found[0].identify(found[1], sha256_file).key


def fetch(ref: str, folder: Path, bus: Notes) -> tuple[SourceImage, list[str]]:
    """Import an image; returns it and the names of its files."""
    found = parse(ref, environ={"BUILDSTEP_PLATFORM": "linux/amd64"})
    assert found is not None
    into = folder / "tree"
    into.mkdir(parents=True)
    image = found[0].fetch(found[1], into, context(folder / "cache", bus))
    return image, sorted(os.fspath(path.relative_to(into)) for path in into.rglob("*") if path.is_file())


@pytest.mark.parametrize("style", STYLES)
def test_an_archive_of_each_tool(tmp_path: Path, bus: Notes, style: str) -> None:
    path = make_saved(tmp_path / "saved.tar", {"ns/app:1.2": [LOWER, UPPER]}, style=style)
    image, names = fetch(f"docker-archive:{path}", tmp_path / "x", bus)
    assert names == ["etc/b", "etc/c"]
    assert image.manifest["name"] == "app"
    assert image.config["config"]["Env"] == ["N=0"]
    assert image.inputs["file"] == str(path)
    assert identify(f"docker-archive:{path}") == f"docker-archive:{image.inputs['image']}"


@pytest.mark.parametrize("kind", PACKERS)
def test_a_compressed_one(tmp_path: Path, bus: Notes, kind: str) -> None:
    path = make_saved(tmp_path / "saved.tar", {"": [LOWER, UPPER]})
    path.write_bytes(PACKERS[kind](path.read_bytes()))
    image, names = fetch(f"docker-archive:{path}", tmp_path / "x", bus)
    assert names == ["etc/b", "etc/c"]
    assert image.manifest["name"] == "saved"
    assert "file:sha256:" in identify(f"docker-archive:{path}")


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_one_of_docker_25_is_taken_by_either_scheme(
    tmp_path: Path, bus: Notes, packed: Callable[[bytes], bytes]
) -> None:
    path = make_saved(tmp_path / "saved.tar", {"app:1": [UPPER]}, style="docker")
    path.write_bytes(packed(path.read_bytes()))
    for scheme in ("docker-archive", "oci"):
        identify(f"{scheme}:{path}:1" if scheme == "oci" else f"{scheme}:{path}")
        assert fetch(f"{scheme}:{path}", tmp_path / scheme, bus)[1] == ["etc/c"]


class TestSeveralImages:
    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        images = {"one:1": [LOWER], "host.example:5000/ns/two:latest": [LOWER, UPPER], "": [OTHER]}
        return os.fspath(make_saved(tmp_path / "saved:all.tar", images, style="legacy"))

    @pytest.mark.parametrize(
        ("name", "files"),
        [
            ("one:1", ["etc/a", "etc/b"]),
            ("docker.io/library/one:1", ["etc/a", "etc/b"]),
            ("host.example:5000/ns/two", ["etc/b", "etc/c"]),  # its first layer is a link to one's
            ("host.example:5000/ns/two:latest", ["etc/b", "etc/c"]),
            ("@2", ["other"]),
        ],
    )
    def test_one_is_named(self, path: str, tmp_path: Path, bus: Notes, name: str, files: list[str]) -> None:
        assert fetch(f"docker-archive:{path}:{name}", tmp_path / "x", bus)[1] == files

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("", "has 3 images, and none was named"),
            (":one", "has no image 'one'"),
            (":one:2", "has no image 'one:2'"),
            (":@3", "has no image @3"),
            (":@-1", "has no image @-1"),
        ],
    )
    def test_none_is(self, path: str, name: str, why: str) -> None:
        with pytest.raises(ImageError, match=why) as caught:
            identify(f"docker-archive:{path}{name}")
        assert caught.value.hint == "it has one:1, host.example:5000/ns/two:latest, @2"

    def test_each_is_another_image(self, path: str) -> None:
        assert len({identify(f"docker-archive:{path}:@{number}") for number in range(3)}) == 3


def test_the_same_image_is_the_same_in_another_archive(tmp_path: Path) -> None:
    """CI saves it anew for each build, with other times and names."""
    keys = {
        identify(f"docker-archive:{make_saved(tmp_path / style, {f'{style}:1': [LOWER]}, style=style)}")
        for style in STYLES
    }
    assert len(keys) == 1


def end_of_content(path: Path) -> int:
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    return last.offset_data + last.size


def damaged(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


class TestDamage:
    def test_a_layer_that_is_not_the_images(self, tmp_path: Path, bus: Notes) -> None:
        path = make_saved(tmp_path / "saved.tar", {"a:1": [LOWER]}, style="jib")
        with tarfile.open(path) as tar:
            place = next(member.offset_data for member in tar if member.name.endswith(".tar.gz"))
        data = bytearray(path.read_bytes())
        data[place + 512 * 2] ^= 1  # the content of a file; the archive is good
        path.write_bytes(data)
        with pytest.raises(ImageError, match="damaged"):
            fetch(f"docker-archive:{path}", tmp_path / "x", bus)

    def test_another_configuration(self, tmp_path: Path) -> None:
        path = make_saved(tmp_path / "saved.tar", {"a:1": [LOWER]})
        damaged(path, b'"N=0"', b'"N=1"')
        with pytest.raises(ImageError, match="damaged: its content has another digest"):
            identify(f"docker-archive:{path}")

    @pytest.mark.parametrize(
        ("config", "why"),
        [
            ("[]", "not a JSON object"),
            ("{}", "no list of its layers' digests"),
            ('{"rootfs": {"diff_ids": ["md5:1"]}}', "no list of its layers' digests"),
            ('{"rootfs": {"diff_ids": []}}', "0 diff_ids for 1 layers"),
        ],
    )
    def test_configurations_that_name_no_layers(self, tmp_path: Path, config: str, why: str) -> None:
        path = make_saved(tmp_path / "saved.tar", {"a:1": [LOWER]}, config=config)
        with pytest.raises(ImageError, match=why):
            identify(f"docker-archive:{path}")

    def test_a_layer_is_missing(self, tmp_path: Path, bus: Notes) -> None:
        path = make_saved(tmp_path / "saved.tar", {"a:1": [LOWER]}, style="legacy")
        damaged(path, b'/layer.tar"', b'/layer.tip"')
        with pytest.raises(ImageError, match=r"has no .*/layer\.tip"):
            fetch(f"docker-archive:{path}", tmp_path / "x", bus)

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "{}",
            "[]",
            '[{"Config": "c", "Layers": ["\\ud800"]}]',
            "[" * 200_000,
            '[{"Config": 1, "Layers": []}]',
            '[{"Config": "c", "Layers": [1]}]',
            "[7]",
        ],
    )
    def test_a_manifest_that_is_none(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "saved.tar"
        archive(path, **{"manifest.json": text, "0.json": ""})
        with pytest.raises(ImageError, match=r"manifest\.json"):
            identify(f"docker-archive:{path}")

    def test_links_lead_nowhere_but_in_the_archive(self, tmp_path: Path, bus: Notes) -> None:
        (tmp_path / "outside.tar").write_bytes(LOWER)
        targets = (os.fspath(tmp_path / "outside.tar"), "../../outside.tar", "../outside.tar", "layer.tar")
        for number, target in enumerate(targets):
            path = tmp_path / "saved.tar"
            rows = [{"Config": "c.json", "RepoTags": None, "Layers": ["self/layer.tar"]}]
            config = {"rootfs": {"diff_ids": ["sha256:" + hashlib.sha256(LOWER).hexdigest()]}}
            files = {"manifest.json": json.dumps(rows), "c.json": json.dumps(config)}
            archive(path, **files)
            with tarfile.open(path, "a") as tar:
                member = tarfile.TarInfo("self/layer.tar")
                member.type, member.linkname = tarfile.SYMTYPE, target
                tar.addfile(member)
            with pytest.raises(ImageError, match=r"has no self/layer\.tar"):
                fetch(f"docker-archive:{path}", tmp_path / f"x{number}", bus)

    def test_docker_before_1_10(self, tmp_path: Path) -> None:
        path = tmp_path / "old.tar"
        archive(path, **{"repositories": "{}", f"{'0' * 64}/layer.tar": "", f"{'0' * 64}/json": "{}"})
        with pytest.raises(ImageError, match=r"has no manifest\.json") as caught:
            identify(f"docker-archive:{path}")
        assert "save it again" in caught.value.hint

    def test_an_archive_may_end_behind_its_last_file_but_not_inside(self, tmp_path: Path, bus: Notes) -> None:
        path = make_saved(tmp_path / "saved.tar", {"a:1": [LOWER]}, style="skopeo")
        path.write_bytes(path.read_bytes()[: end_of_content(path)])
        assert kind_of(path) == "docker-archive"
        assert fetch(f"docker-archive:{path}", tmp_path / "x", bus)[1] == ["etc/a", "etc/b"]
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ImageError, match=r"ends inside of manifest\.json"):
            identify(f"docker-archive:{path}")


class TestAnotherScheme:
    """What a file holds is told by its content, and the error says what to write."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, Path]:
        make_layout(tmp_path / "layout", [UPPER])
        made = {
            "tar": tmp_path / "root.tar",
            "oci": pack(tmp_path / "layout", tmp_path / "image.tar"),
            "docker-archive": make_saved(tmp_path / "saved.tar", {"a:1": [LOWER]}, style="legacy"),
        }
        archive(made["tar"], etc="x")
        for kind, path in list(made.items()):
            packed = path.with_suffix(".tgz")
            packed.write_bytes(gzip.compress(path.read_bytes()))
            made[f"{kind} gz"] = packed
        return made

    @pytest.mark.parametrize("packed", ["", " gz"])
    @pytest.mark.parametrize("kind", ["tar", "oci", "docker-archive"])
    @pytest.mark.parametrize("scheme", ["tar", "oci", "docker-archive", "zfs"])
    def test_is_named(self, files: dict[str, Path], kind: str, scheme: str, packed: str) -> None:
        path = files[kind + packed]
        if kind == scheme:
            assert identify(f"{scheme}:{path}").startswith(scheme)
            check_file(f"{scheme}:{path}")
            return
        # Only of a compressed one it may be left to who imports it.
        look = check_file if packed else identify
        with pytest.raises(ImageError) as caught:
            look(f"{scheme}:{path}")
        assert str(path) in caught.value.message
        assert caught.value.hint == f"write {kind}:{path}"

    @pytest.mark.parametrize("kind", ["oci", "docker-archive"])
    def test_costs_nothing_where_the_image_is_in_the_store(
        self, files: dict[str, Path], kind: str, store: ImageStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every build identifies its base; one that imports it expands the archive anyway."""
        monkeypatch.setattr(file_kind, "_container_kind", lambda *_: pytest.fail("the archive was expanded"))
        assert store.find(f"{kind}:{files[f'{kind} gz']}") is None

    @pytest.mark.parametrize(("kind", "scheme"), [("oci", "docker-archive"), ("docker-archive", "oci")])
    def test_is_told_before_the_import(
        self, files: dict[str, Path], kind: str, scheme: str, store: ImageStore, journal: Journal
    ) -> None:
        path = files[f"{kind} gz"]
        for call in (store.foresee, Importer(store, journal).ensure):
            with pytest.raises(ImageError) as caught:
                call(f"{scheme}:{path}")
            assert caught.value.hint == f"write {kind}:{path}"

    def test_a_directory(self, tmp_path: Path) -> None:
        make_layout(tmp_path / "layout", [UPPER])
        for scheme in ("tar", "docker-archive"):
            with pytest.raises(ImageError, match="is an OCI layout") as caught:
                identify(f"{scheme}:{tmp_path}/layout")
            assert caught.value.hint == f"write oci:{tmp_path}/layout"
            (tmp_path / "plain").mkdir(exist_ok=True)
            with pytest.raises(ImageError, match="is a directory"):
                identify(f"{scheme}:{tmp_path}/plain")

    def test_a_stream(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(b"btrfs-stream\0" + bytes(2000))
        with pytest.raises(ImageError, match="is a btrfs stream, not a root file system"):
            identify(f"tar:{path}")


@pytest.mark.parametrize("kind", PACKERS)
def test_a_compressed_layout(tmp_path: Path, bus: Notes, kind: str) -> None:
    make_layout(tmp_path / "layout", [gzip.compress(LOWER), UPPER], tag="v1")
    path = pack(tmp_path / "layout", tmp_path / "image.oci.tar")
    path.write_bytes(PACKERS[kind](path.read_bytes()))
    assert fetch(f"oci:{path}:v1", tmp_path / "x", bus)[1] == ["etc/b", "etc/c"]
    keys = {identify(f"oci:{path}{tag}") for tag in ("", ":v1", ":v2")}
    assert len(keys) == 3
    with pytest.raises(ImageError, match="has no image 'v2'"):
        fetch(f"oci:{path}:v2", tmp_path / "y", bus)


def test_a_layout_with_a_leading_slash_and_without_its_end(tmp_path: Path, bus: Notes) -> None:
    make_layout(tmp_path / "layout", [UPPER])
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for path in sorted((tmp_path / "layout").rglob("*"), reverse=True):
            if path.is_file():
                member = tarfile.TarInfo(f"//{path.relative_to(tmp_path / 'layout')}")
                member.size = path.stat().st_size
                tar.addfile(member, io.BytesIO(path.read_bytes()))
    path = tmp_path / "image.tar"
    path.write_bytes(raw.getvalue())
    end = end_of_content(path)
    path.write_bytes(raw.getvalue()[:end])
    assert fetch(f"oci:{tmp_path}/image.tar", tmp_path / "x", bus)[1] == ["etc/c"]
    path.write_bytes(raw.getvalue()[: end - 1])
    with pytest.raises(ImageError, match="ends inside of"):
        identify(f"oci:{tmp_path}/image.tar")


def test_a_file_of_a_manifest_may_be_one(store: ImageStore, journal: Journal, tmp_path: Path) -> None:
    path = make_saved(tmp_path / "saved.tar", {"a:1": [LOWER, UPPER]})
    record, _ = Importer(store, journal).import_file(path, manifest_of(path))
    assert record.config["config"]["Env"] == ["N=0"]
    assert record.files == 4


def test_an_image_without_layers_is_an_empty_tree(
    store: ImageStore, journal: Journal, tmp_path: Path
) -> None:
    make_layout(tmp_path / "layout", [])
    for ref in (f"oci:{tmp_path}/layout", f"docker-archive:{make_saved(tmp_path / 's.tar', {'': []})}"):
        record, _ = Importer(store, journal).ensure(ref)
        assert record.files == 1
        store.verify(record)


def test_a_build_finds_it_in_the_store_again(store: ImageStore, journal: Journal, tmp_path: Path) -> None:
    path = make_saved(tmp_path / "saved.tar", {"a:1": [LOWER, UPPER]})
    importer = Importer(store, journal)
    record, present = importer.ensure(f"docker-archive:{path}")
    again = make_saved(tmp_path / "again.tar", {"b:2": [LOWER, UPPER]}, style="skopeo")
    assert importer.ensure(f"docker-archive:{again}:b:2") == (record, True)
    assert not present
