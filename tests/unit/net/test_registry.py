"""References, and registries that answer otherwise. A real one is in tests/integration/test_registry.py."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from buildstep.errors import UsageError
from buildstep.events import Gauge
from buildstep.formats.oci.spec import OCI_MANIFEST, Descriptor, OciPlatform
from buildstep.net.errors import HttpError
from buildstep.net.http import Http
from buildstep.net.registry import Reference, RegistryClient, is_loopback
from buildstep.system.files import Slice
from tests.servers import registry
from tests.servers.fixtures import Notes, bus, http
from tests.servers.registry import RegistryServer

__all__ = ["bus", "http"]

D = "sha256:" + "a" * 64


class TestReferences:
    @pytest.mark.parametrize(
        ("text", "host", "repository", "wanted"),
        [
            ("docker://127.0.0.1:5000/ns/img:v1", "127.0.0.1:5000", "ns/img", "v1"),
            ("//registry.example.com/img", "registry.example.com", "img", "latest"),
            ("docker://debian:12", "docker.io", "library/debian", "12"),
            ("docker://grafana/grafana", "docker.io", "grafana/grafana", "latest"),
            (f"docker://localhost/x@{D}", "localhost", "x", D),
            (f"docker://h:1/x:t@{D}", "h:1", "x", D),
            ("docker://[::1]:5000/x", "[::1]:5000", "x", "latest"),
        ],
    )
    def test_good(self, text: str, host: str, repository: str, wanted: str) -> None:
        ref = Reference.parse(text)
        assert (ref.host, ref.repository, ref.wanted) == (host, repository, wanted)
        assert Reference.parse(str(ref)) == ref

    @pytest.mark.parametrize(
        "text", ["docker://h.x/UPPER", "docker://h.x/", "docker://h.x/a:b c", "docker://h.x/a@sha256:1", "docker://",
                 "docker://h.x/../b", "docker://u:p@h.x/a", "docker://h.x/a:"]
    )  # fmt: skip
    def test_bad(self, text: str) -> None:
        with pytest.raises(UsageError):
            Reference.parse(text)

    def test_where_http_will_do(self) -> None:
        assert all(map(is_loopback, ("127.0.0.1:5000", "localhost", "[::1]:80", "x.localhost:1")))
        assert not any(map(is_loopback, ("10.0.0.1", "example.com:5000", "localhost.example.com")))


MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": D, "size": 2},
        "layers": [],
    }
).encode()
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()


@pytest.mark.parametrize("status", [404, 405, 501])
class TestNoWordToHead:
    """Registries and proxies that know no HEAD, on a manifest or on a blob."""

    def client(self, server: RegistryServer, http: Http) -> RegistryClient:
        return RegistryClient(Reference.parse(f"docker://{server.host}/x:v1"), http=http)

    def test_a_manifest_is_asked_for_with_get(self, status: int, http: Http, bus: Notes) -> None:
        with RegistryServer(no_head=status) as server:
            server.content["manifests/v1"] = (MANIFEST, OCI_MANIFEST)
            found = self.client(server, http).resolve("v1")
            assert found == Descriptor(media_type=OCI_MANIFEST, digest=DIGEST, size=len(MANIFEST))
            assert server.calls == [("HEAD", "manifests/v1"), ("GET", "manifests/v1")]
            assert self.client(server, http).image("v1", OciPlatform.parse("linux/amd64")).layers == ()
        assert bus.texts == [], "it is no failure, and nothing is tried again"

    def test_what_is_not_there_is_not_there(self, status: int, http: Http) -> None:
        with RegistryServer(no_head=status) as server:
            assert self.client(server, http).resolve("v1") is None

    def test_blobs_and_manifests_are_pushed(self, status: int, http: Http) -> None:
        with RegistryServer(no_head=status) as server:
            client = self.client(server, http)
            blob = Descriptor(media_type="", digest="sha256:" + hashlib.sha256(b"x").hexdigest(), size=1)
            assert client.push_blob(blob, b"x")
            client.push_manifest("v1", OCI_MANIFEST, MANIFEST)
            assert server.content[f"blobs/{blob.digest}"][0] == b"x"
            assert server.content["manifests/v1"] == (MANIFEST, OCI_MANIFEST)


def test_another_answer_to_head_is_a_failure(http: Http) -> None:
    with RegistryServer(no_head=403) as server, pytest.raises(HttpError, match="403"):
        RegistryClient(Reference.parse(f"docker://{server.host}/x:v1"), http=http).resolve("v1")
    assert [method for method, _ in server.calls] == ["HEAD"]


class TestGauge:
    """What is pushed is counted once, whatever had to be repeated."""

    def push(self, http: Http, server: RegistryServer, tmp_path: Path, size: int) -> Gauge:
        data = os.urandom(size)
        (tmp_path / "blob").write_bytes(data)
        blob = Descriptor(media_type="", digest="sha256:" + hashlib.sha256(data).hexdigest(), size=size)
        gauge = Gauge("push", size)
        client = RegistryClient(Reference.parse(f"docker://{server.host}/x:v1"), http=http)
        assert client.push_blob(blob, Slice(path=tmp_path / "blob", offset=0, size=size), gauge)
        assert server.content[f"blobs/{blob.digest}"][0] == data
        assert not client.push_blob(blob, Slice(path=tmp_path / "blob", offset=0, size=size), gauge)
        return gauge

    def test_bytes_that_are_sent_and_bytes_that_are_there(self, http: Http, tmp_path: Path) -> None:
        with RegistryServer() as server:
            assert self.push(http, server, tmp_path, 300_001).reading().done == 600_002

    def test_a_body_that_has_to_be_sent_again(
        self, http: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures = iter([503])
        answered = registry._Handler.do_PUT

        def put(handler: registry._Handler) -> None:
            status = next(failures, 0)
            if not status:
                return answered(handler)
            handler._body()
            return handler._answer(status)

        monkeypatch.setattr(registry._Handler, "do_PUT", put)
        with RegistryServer() as server:
            assert self.push(http, server, tmp_path, 300_001).reading().done == 600_002
