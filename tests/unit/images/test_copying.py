"""Copies of images: of all platforms, with what is said of each, and with what is said of that."""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import PublishError, UsageError
from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import EMPTY, EMPTY_DATA, Artifact
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.layout_archive import LayoutArchive
from buildstep.formats.oci.spec import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, REF_NAME, Descriptor
from buildstep.images.attestations import inside, legacy, wrap
from buildstep.images.copying import Copied, copy_image
from buildstep.images.publishers import PublishOptions
from buildstep.net.http import Http
from buildstep.net.referrers import ReferrerRegistry
from buildstep.net.registry import Reference
from tests.servers.fixtures import LIMITS, Notes, bus, http
from tests.servers.registry import RegistryServer

__all__ = ["bus", "http"]

CONFIG = b'{"architecture": "amd64", "os": "linux"}'
ROWS = {"vnd.docker.reference.type": "attestation-manifest"}


class Filled:
    """A registry with an index of one image and of BuildKit's attestation of it, a referrer of the image and of
    the index, a referrer of that, and cosign's tag of the image."""

    def __init__(self, server: RegistryServer, http: Http) -> None:
        self.client = ReferrerRegistry(Reference.parse(f"docker://{server.host}/x:v1"), http=http)
        self.client.push_blob(EMPTY, EMPTY_DATA)
        config = self._blob(OCI_CONFIG, CONFIG)
        self.image = artifact.make([], subject=None, config=config)
        self._manifest(self.image)
        inside = artifact.make([self._blob(wrap.IN_TOTO, b"inside")], subject=None)
        self._manifest(inside)
        rows = [
            self.image.entry.to_json() | {"platform": {"os": "linux", "architecture": "amd64"}},
            inside.entry.to_json() | {"annotations": ROWS},
        ]
        data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}).encode()
        self.client.push_manifest("v1", OCI_INDEX, data)
        self.index = artifact.described(OCI_INDEX, data)
        said = self._say(self.image.entry, b"of the image")
        self._say(self.index, b"of the index")
        self._say(said.entry, b"of what is said")
        layer = legacy.attestation_layer(b"{}", "https://example.com")
        legacy.push(self.client, legacy.tag_of(self.image.entry.digest, "att"), legacy.lacking([layer]))

    def say_more(self, subject: Descriptor) -> Artifact:
        """Let the registry have another referrer of an image."""
        return self._say(subject, b"more of it")

    def _blob(self, kind: str, data: bytes) -> Descriptor:
        entry = artifact.described(kind, data)
        self.client.push_blob(entry, data)
        return entry

    def _manifest(self, item: Artifact) -> None:
        self.client.push_manifest(item.entry.digest, OCI_MANIFEST, item.document)

    def _say(self, subject: Descriptor, data: bytes) -> Artifact:
        item = artifact.make([self._blob("text/plain", data)], subject=subject, artifact_type="text/plain")
        self.client.attach([item])
        return item


@pytest.fixture
def source() -> Iterator[RegistryServer]:
    with RegistryServer(referrers=True) as server:
        yield server


def copied(source: str, target: str, bus: Notes, *, replace: bool = False) -> Copied:
    with tempfile.TemporaryDirectory() as folder:
        done = copy_image(source, target, PublishOptions(limits=LIMITS, replace=replace), bus, Path(folder))
        assert os.listdir(folder) == []
    return done


def test_all_of_it_is_copied(source: RegistryServer, http: Http, bus: Notes, tmp_path: Path) -> None:
    """Through a layout to a registry that knows no referrers: what is there by digest is the same."""
    filled = Filled(source, http)
    done = copied(f"docker://{source.host}/x:v1", f"oci:{tmp_path}/media", bus)
    assert (done.manifests, done.attestations, done.new) == (3, 4, 4)
    with RegistryServer(referrers=True) as target:
        copied(f"oci:{tmp_path}/media", f"docker://{target.host}/y", bus)

        def by_digest(server: RegistryServer) -> set[str]:
            return {path for path in server.content if "/sha256:" in path}

        assert by_digest(target) == by_digest(source)
        assert target.content["manifests/v1"] == source.content["manifests/v1"]
        assert target.writes("manifests/")[-1] == "manifests/v1"
        again = copied(f"oci:{tmp_path}/media", f"docker://{target.host}/y", bus)
        assert again.new == 0
    with RegistryServer() as target:
        copied(f"docker://{source.host}/x@{filled.image.entry.digest}", f"docker://{target.host}/y:one", bus)
        tag = f"manifests/{filled.image.entry.digest.replace(':', '-')}"
        assert len(json.loads(target.content[tag][0])["manifests"]) == 1
        assert f"{tag}.att" in target.content


def test_an_archive_has_all_of_it_and_the_same_bytes_each_time(
    source: RegistryServer, http: Http, bus: Notes, tmp_path: Path
) -> None:
    """From a registry, from a layout, over itself, and back: referrers are blobs that its index does not list."""
    Filled(source, http)
    here, file = f"docker://{source.host}/x:v1", tmp_path / "new/one.oci.tar"
    file.parent.mkdir()
    (file.parent / ".one.oci.tar.1.2.part").touch()  # of one that was killed
    done = copied(here, f"oci-archive:{file}", bus)
    assert (done.manifests, done.attestations, done.new) == (3, 4, 4)
    assert os.listdir(file.parent) == [file.name]
    assert file.stat().st_mode & 0o444 == 0o444
    copied(here, f"oci:{tmp_path}/media", bus)
    copied(f"oci:{tmp_path}/media", f"{tmp_path}/two.oci.tar:v1", bus)
    data = file.read_bytes()
    assert (tmp_path / "two.oci.tar").read_bytes() == data
    again = copied(f"oci-archive:{file}", f"oci:{file}", bus)
    assert (again.new, file.read_bytes()) == (0, data)
    with tarfile.open(file) as archive:
        names = archive.getnames()
        assert (names[0], names[-1]) == ("oci-layout", "index.json")
        assert names[1:-1] == sorted(names[1:-1])
        assert {(row.uid, row.gid, row.mtime, row.uname) for row in archive} == {(0, 0, 0, "")}
    (row,) = open_layout(file, "one").tags().values()
    assert (row.digest, row.annotations[REF_NAME]) == (done.digest, "v1")
    with RegistryServer(referrers=True) as target:
        copied(str(file), f"docker://{target.host}/y", bus)
        assert {it for it in target.content if "/sha256:" in it} == {
            it for it in source.content if "/sha256:" in it
        }


def test_an_archive_that_is_there(source: RegistryServer, http: Http, bus: Notes, tmp_path: Path) -> None:
    """What it says of the same image stays; another image is replaced only where that is meant."""
    filled = Filled(source, http)
    here, file = f"docker://{source.host}/x:v1", tmp_path / "one.oci.tar"
    alone = f"docker://{source.host}/x@{filled.image.entry.digest}"
    copied(alone, str(file), bus)
    with pytest.raises(PublishError, match="has another image"):
        copied(here, str(file), bus)
    copied(here, str(file), bus, replace=True)
    (row,) = open_layout(file, "one").tags().values()
    assert row.digest == filled.index.digest
    # The image has one more referrer here than there.
    more = filled.say_more(filled.image.entry)
    copied(alone, f"oci-archive:{tmp_path}/two.tar", bus)
    with RegistryServer(referrers=True) as other:
        Filled(other, http)
        done = copied(f"docker://{other.host}/x@{filled.image.entry.digest}", f"oci:{tmp_path}/two.tar", bus)
    assert done.new == 0
    found = inside.referrers_in(open_layout(tmp_path / "two.tar", "two"))
    assert more.entry.digest in {item.entry.digest for item in found[filled.image.entry.digest]}


def test_archives_that_cannot_be_written(
    source: RegistryServer, http: Http, bus: Notes, tmp_path: Path
) -> None:
    filled = Filled(source, http)
    here = f"docker://{source.host}/x:v1"
    (tmp_path / "hello-1.buildrecord.json").touch()
    (tmp_path / "text.tar").write_bytes(b"text")
    (tmp_path / "folder.tar").mkdir()
    for target, text in (
        ("hello-1.oci.tar", "is a file of a build"), ("text.tar", "text.tar"), ("text.tar/x.tar", "Not a directory|File exists"),
    ):  # fmt: skip
        with pytest.raises(PublishError, match=text):
            copied(here, f"oci-archive:{tmp_path}/{target}", bus, replace=True)
    with pytest.raises(UsageError, match="names no file"):
        copied(here, f"oci-archive:{tmp_path}/folder.tar", bus)
    source.content[f"blobs/{filled.image.config.digest}"] = (b"x" * len(CONFIG), "")
    with pytest.raises(PublishError):
        copied(here, f"oci-archive:{tmp_path}/new.tar", bus)
    assert sorted(os.listdir(tmp_path)) == ["folder.tar", "hello-1.buildrecord.json", "text.tar"]


def test_what_a_broken_copy_left_is_not_in_the_archive_of_another_image(
    source: RegistryServer, http: Http, bus: Notes, tmp_path: Path
) -> None:
    filled = Filled(source, http)
    file = tmp_path / "one.tar"
    stage = tmp_path / "stage/layout"
    writer = LayoutArchive(stage)
    for data in (b"of another image", CONFIG):
        writer.add_document(artifact.described("", data), data)
    found = LayoutArchive(stage)
    assert found.has(filled.image.config)
    found.name("v1", filled.image.config)
    with file.open("wb") as stream:
        found.pack(stream)
    assert [name for name, _ in open_layout(file, "one").blobs()] == [filled.image.config.hex]


def test_a_tag_of_another_image_is_not_moved(
    source: RegistryServer, http: Http, bus: Notes, tmp_path: Path
) -> None:
    filled = Filled(source, http)
    here = f"docker://{source.host}/x:v1"
    for target in (f"docker://{source.host}/x:v2", f"oci:{tmp_path}/media:v2"):
        copied(f"docker://{source.host}/x@{filled.image.entry.digest}", target, bus)
        with pytest.raises(PublishError, match="another image"):
            copied(here, target, bus)
        copied(here, target, bus, replace=True)


def test_what_cannot_be_copied(source: RegistryServer, http: Http, bus: Notes, tmp_path: Path) -> None:
    Filled(source, http)
    here = f"docker://{source.host}/x:v1"
    for target in ("dir:x", f"{here}@sha256:{'0' * 64}"):
        with pytest.raises(UsageError):
            copied(here, target, bus)
    with pytest.raises(PublishError, match="has no image none"):
        copied(f"docker://{source.host}/x:none", f"oci:{tmp_path}/media", bus)
    with pytest.raises(PublishError):
        copied(f"oci:{tmp_path}/nothing", here, bus)
    assert not (tmp_path / "media").exists()


def test_a_blob_that_is_not_what_it_should_be(
    source: RegistryServer, http: Http, bus: Notes, tmp_path: Path
) -> None:
    filled = Filled(source, http)
    source.content[f"blobs/{filled.image.config.digest}"] = (b"x" * len(CONFIG), "")
    with pytest.raises(PublishError):
        copied(f"docker://{source.host}/x:v1", f"oci:{tmp_path}/media", bus)
    assert not (tmp_path / "media/index.json").exists()
