"""Referrers of images, in registries that keep the list of them and in those that leave it to clients."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import EMPTY, EMPTY_DATA, Artifact
from buildstep.formats.oci.spec import OCI_INDEX, OCI_MANIFEST, Descriptor
from buildstep.net import referrers
from buildstep.net.errors import HttpError
from buildstep.net.http import Http
from buildstep.net.referrers import ReferrerRegistry, fallback_tag
from buildstep.net.registry import Reference
from tests.servers.fixtures import bus, http
from tests.servers.registry import RegistryServer

__all__ = ["bus", "http"]

IMAGE = artifact.make([], subject=None)
SUBJECT = IMAGE.entry
TAG = f"manifests/{fallback_tag(SUBJECT.digest)}"


def made(text: str, *, kind: str = "application/x", subject: Descriptor = SUBJECT) -> Artifact:
    layer = artifact.described("text/plain", text.encode())
    return artifact.make([layer], subject=subject, artifact_type=kind, annotations={"text": text})


@pytest.fixture(params=["api", "tag", "tag-etag"])
def server(request: pytest.FixtureRequest) -> Iterator[RegistryServer]:
    with RegistryServer(referrers=request.param == "api", etags=request.param == "tag-etag") as found:
        yield found


def client(server: RegistryServer, http: Http) -> ReferrerRegistry:
    found = ReferrerRegistry(Reference.parse(f"docker://{server.host}/x:v1"), http=http)
    found.push_blob(EMPTY, EMPTY_DATA)
    found.push_manifest(SUBJECT.digest, OCI_MANIFEST, IMAGE.document)
    return found


def rows(server: RegistryServer) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(server.content[TAG][0])["manifests"]
    return found


def test_there_and_back(server: RegistryServer, http: Http) -> None:
    ours = [made(str(number)) for number in range(5)]
    there = client(server, http)
    assert there.referrers(SUBJECT.digest).artifacts == ()
    assert there.attach(ours) == 5
    assert sorted(item.document for item in there.referrers(SUBJECT.digest).artifacts) == sorted(
        item.document for item in ours
    )
    # One write of the index for all of them, and none where the registry keeps the list.
    assert len(server.writes("manifests/sha256-")) == (0 if server.referrers else 1)
    server.calls.clear()
    assert there.attach(ours) == 0
    assert server.writes("") == []
    assert there.attach([*ours, made("more", kind="application/y")]) == 1
    assert len(there.referrers(SUBJECT.digest).artifacts) == 6
    assert [
        item.annotations["text"] for item in there.referrers(SUBJECT.digest, "application/y").artifacts
    ] == ["more"]


def test_rows_of_the_index_are_complete(http: Http) -> None:
    with RegistryServer() as server:
        ours = made("a")
        client(server, http).attach([ours])
        assert rows(server) == [
            {
                "mediaType": OCI_MANIFEST,
                "digest": ours.entry.digest,
                "size": ours.entry.size,
                "artifactType": "application/x",
                "annotations": {"text": "a"},
            }
        ]
        assert server.content[TAG][1] == OCI_INDEX


def test_a_proxy_that_takes_the_header_away(http: Http) -> None:
    with RegistryServer(referrers=True) as server:
        server.shown = False
        there = client(server, http)
        assert there.attach([made("a")]) == 1
        assert TAG not in server.content
        assert len(there.referrers(SUBJECT.digest).artifacts) == 1


def test_rows_lie(http: Http) -> None:
    """cosign's rows have the type of the configuration, and no annotations: what the manifest says counts."""
    with RegistryServer() as server:
        there = client(server, http)
        ours, other = made("a"), made("b", subject=made("z").entry)
        there.attach([ours])
        there.put_manifest(other.entry.digest, OCI_MANIFEST, other.document)
        lying = ours.entry.to_json() | {"artifactType": EMPTY.media_type}
        strangers = [
            other.listed(),  # about another image
            SUBJECT.to_json(),  # about none
            {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 3},  # gone
            {"mediaType": OCI_MANIFEST, "digest": "sha512:1", "size": 3},
            {"digest": 7},
        ]
        index = json.dumps({"manifests": [lying, lying, *strangers, "x"]}).encode()
        server.content[TAG] = (index, OCI_INDEX)
        found = there.referrers(SUBJECT.digest, "application/x")
        assert [item.document for item in found.artifacts] == [ours.document]
        assert len(found.passed) == 5


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"manifests": 3}', b"[" * 100_000])
def test_what_is_no_index(body: bytes, http: Http) -> None:
    with RegistryServer() as server:
        there = client(server, http)
        server.content[TAG] = (body, "text/html")
        assert there.referrers(SUBJECT.digest).artifacts == ()


def test_another_content_under_a_digest(http: Http) -> None:
    with RegistryServer(referrers=True) as server:
        there = client(server, http)
        ours = made("a")
        there.attach([ours])
        path = f"manifests/{ours.entry.digest}"
        server.content[path] = (ours.document.replace(b'"a"', b'"e"'), OCI_MANIFEST)
        found = there.referrers(SUBJECT.digest)
        assert found.artifacts == ()
        assert "instead of" in found.passed[0]


def test_as_many_as_anybody_likes(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(referrers, "MOST", 10)
    for known in (True, False):
        with RegistryServer(referrers=known, page=4) as server:
            there = client(server, http)
            for start in range(0, 30, 10):
                if known or not start:
                    there.attach([made(f"{start + number}") for number in range(10)])
            if not known:
                server.content[TAG] = (json.dumps({"manifests": rows(server) * 2}).encode(), OCI_INDEX)
            server.calls.clear()
            found = there.referrers(SUBJECT.digest)
            assert "others were not looked at" in found.passed[0]
            assert len([path for _, path in server.calls if path.startswith("manifests/sha256:")]) == 10
    with RegistryServer(referrers=True, page=4) as server:
        there = client(server, http)
        there.attach([*(made(f"{number}") for number in range(40)), made("wanted", kind="application/z")])
        found = there.referrers(SUBJECT.digest, first=("application/z",))
        assert found.artifacts[0].annotations["text"] == "wanted"
    monkeypatch.setattr(referrers, "_BYTES", 1000)
    with RegistryServer(referrers=True, page=4) as server:
        there = client(server, http)
        there.attach([made(f"{number}") for number in range(10)])
        found = there.referrers(SUBJECT.digest)
        assert 0 < len(found.artifacts) < 5
        assert "MiB" in found.passed[0]


def test_pages_that_never_end(http: Http) -> None:
    with RegistryServer(referrers=True, page=0) as server:
        there = client(server, http)
        server.page = 1
        there.attach([made("a"), made("b")])
        server.page = 0  # each page is empty, and its next one is itself
        assert there.referrers(SUBJECT.digest).artifacts == ()
        assert len(server.calls) < 30


@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_registry_that_takes_no_artifacts(status: int, http: Http) -> None:
    with RegistryServer() as server:
        there = client(server, http)
        server.refused = status
        with pytest.raises(HttpError, match="does not take what refers to an image") as caught:
            there.attach([made("a")])
        assert "--attestations tags" in caught.value.hint


@pytest.mark.parametrize("status", [400, 409, 412])
def test_tags_that_cannot_be_written_again(status: int, http: Http) -> None:
    with RegistryServer(immutable=status) as server:
        there = client(server, http)
        assert there.attach([made("a"), made("b")]) == 2  # one write
        assert there.attach([made("b"), made("a")]) == 0
        with pytest.raises(HttpError, match="cannot be written again") as caught:
            there.attach([made("c")])
        assert "immutable" in caught.value.hint
        assert len(rows(server)) == 2


@pytest.mark.parametrize("etags", [True, False])
def test_several_write_at_once(etags: bool, http: Http) -> None:
    """Each finds the others' rows, whether the registry minds ETags or not."""
    with RegistryServer(etags=etags) as server:
        there = client(server, http)
        raced = threading.Event()

        def other(path: str) -> None:
            if path == TAG and not raced.is_set():
                raced.set()
                ReferrerRegistry(there.ref, http=http).attach([made("other")])

        server.before_put = other
        there.attach([made("ours")])
        # Without ETags our write came last, and has taken the other's row away: who wrote it finds that.
        ReferrerRegistry(there.ref, http=http).attach([made("other")])
        assert len(there.referrers(SUBJECT.digest).artifacts) == 2
        assert len(server.writes("manifests/sha256-")) == 3


def test_eight_writers(http: Http) -> None:
    with RegistryServer(etags=True) as server:
        there = client(server, http)

        def write(number: int) -> None:
            ReferrerRegistry(there.ref, http=http).attach([made(str(number))])

        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(there.referrers(SUBJECT.digest).artifacts) == 6
