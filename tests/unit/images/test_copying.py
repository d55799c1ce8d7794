"""Copies of images: of all platforms, with what is said of each, and with what is said of that."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import PublishError, UsageError
from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import EMPTY, EMPTY_DATA, Artifact
from buildstep.formats.oci.spec import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor
from buildstep.images.attestations import legacy, wrap
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
