"""Evidence out of registries: what is there in each form, and what anybody may have put there."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import EMPTY, EMPTY_DATA, Artifact
from buildstep.formats.oci.spec import OCI_INDEX, OCI_MANIFEST, OciPlatform
from buildstep.images.attestations import evidence, legacy, wrap
from buildstep.images.attestations.evidence import from_registry
from buildstep.images.attestations.wrap import Document, Signed
from buildstep.net.errors import HttpError
from buildstep.net.http import Http
from buildstep.net.referrers import ReferrerRegistry
from buildstep.net.registry import Reference
from buildstep.trust import dsse
from buildstep.trust.signatures import simplesigning
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject
from buildstep.trust.verify.evidence import Evidence
from tests.servers.fixtures import bus, http
from tests.servers.registry import RegistryServer

__all__ = ["bus", "http"]

IMAGE = artifact.make([], subject=None)
SUBJECT = IMAGE.entry


@pytest.fixture(params=["api", "tag"])
def server(request: pytest.FixtureRequest) -> Iterator[RegistryServer]:
    with RegistryServer(referrers=request.param == "api", page=100) as found:
        yield found


def client(server: RegistryServer, http: Http) -> ReferrerRegistry:
    found = ReferrerRegistry(Reference.parse(f"docker://{server.host}/x:v1"), http=http)
    found.push_blob(EMPTY, EMPTY_DATA)
    found.push_manifest("v1", OCI_MANIFEST, IMAGE.document)
    return found


def stated(kind: str, *sigs: bytes) -> Signed:
    payload = Statement((Subject("x", {"sha256": SUBJECT.hex}),), kind, {}).to_json()
    rows = [dsse.Signature(f"key{number}", sig) for number, sig in enumerate(sigs)]
    envelope = dsse.Envelope(payload_type=PAYLOAD_TYPE, payload=payload, signatures=tuple(rows))
    return Signed(data=dsse.dumps(envelope))


def push(there: ReferrerRegistry, *signed: Signed, documents: tuple[Document, ...] = ()) -> None:
    pieces = wrap.pieces_of(SUBJECT, signed, documents)
    for piece in pieces:
        for blob in piece.artifact.blobs:
            there.push_blob(blob, piece.blobs[blob.digest])
    there.attach([piece.artifact for piece in pieces])


def read(there: ReferrerRegistry) -> tuple[Evidence, list[str]]:
    told: list[str] = []
    return from_registry(there, told.append), told


def test_all_forms(server: RegistryServer, http: Http) -> None:
    there = client(server, http)
    twice, bare = stated("https://a", b"1", b"2"), stated("https://b")
    push(
        there,
        twice,
        bare,
        documents=(Document(name="x.spdx.json", media_type="application/spdx+json", data=b"{}"),),
    )
    layers = [legacy.attestation_layer(twice.data, "https://a")]
    legacy.push(there, legacy.tag_of(SUBJECT.digest, "att"), legacy.lacking(layers))
    payload = simplesigning.payload("h/x", SUBJECT.digest)
    layers = [legacy.signature_layer(payload, base64.b64encode(b"sig").decode())]
    legacy.push(there, legacy.tag_of(SUBJECT.digest, "sig"), legacy.lacking(layers))

    found, told = read(there)
    assert told == []
    assert found.digests == {"oci": SUBJECT.hex}
    assert found.name == f"docker://{server.host}/x:v1@{SUBJECT.digest}"
    assert found.names[-1] == f"docker://{server.host}/x"
    envelopes = [dsse.parse(raw.data) for raw in found.envelopes]
    # A bundle for each signature, the one without any, and cosign's with both.
    assert sorted(tuple(one.sig for one in it.signatures) for it in envelopes) == [
        (),
        (b"1",),
        (b"1", b"2"),
        (b"2",),
    ]
    (signature,) = found.signatures
    assert (signature.kind, signature.data, signature.payload) == (
        "simplesigning",
        base64.b64encode(b"sig"),
        payload,
    )


def test_the_same_is_there_once(server: RegistryServer, http: Http) -> None:
    there = client(server, http)
    signed = stated("https://a", b"1")
    push(there, signed)
    layers = [legacy.attestation_layer(signed.data, "https://a")]
    legacy.push(there, legacy.tag_of(SUBJECT.digest, "att"), legacy.lacking(layers))
    assert len(read(there)[0].envelopes) == 1


def other(kind: str, data: bytes) -> Artifact:
    layer = artifact.described(kind, data)
    return artifact.make([layer], subject=SUBJECT, artifact_type=kind)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff" * 9, b"[" * 90_000, b'{"dsseEnvelope": 3}'])
def test_bundles_that_are_none(data: bytes, http: Http) -> None:
    with RegistryServer(referrers=True, page=100) as server:
        there = client(server, http)
        item = other(wrap.BUNDLE, data)
        there.push_blob(item.layers[0], data)
        there.attach([item])
        push(there, stated("https://a", b"1"))
        found, _ = read(there)
        assert len(found.envelopes) == 1


def test_blobs_that_are_gone_or_too_large(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MAX_BLOB", 1000)
    with RegistryServer(referrers=True, page=100) as server:
        there = client(server, http)
        push(there, stated("https://a", b"1"))
        large, gone = other(wrap.IN_TOTO, b"x" * 2000), other(wrap.IN_TOTO, b"y")
        lying = artifact.make(
            [artifact.described(wrap.IN_TOTO, b"z" * 100)], subject=SUBJECT, artifact_type=wrap.IN_TOTO
        )
        there.push_blob(large.layers[0], b"x" * 2000)
        server.content[f"blobs/{lying.layers[0].digest}"] = (b"another", "")
        there.attach([large, gone, lying])
        found, told = read(there)
        assert len(found.envelopes) == 1
        assert len(told) == 3
        assert all("passed over" in text for text in told)


def test_more_than_can_be_read(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    with RegistryServer(referrers=True, page=100) as server:
        there = client(server, http)
        push(there, *(stated(f"https://{number}", b"1") for number in range(20)))
        monkeypatch.setattr(evidence.Gathered, "left", 2000)
        found = evidence.Gathered(left=2000)
        told: list[str] = []
        evidence.gather(there, SUBJECT.digest, found, told.append)
        assert 0 < len(found.envelopes) < 6
        assert "MiB of evidence" in told[-1]


def test_a_platform_of_an_index(http: Http) -> None:
    """What is said of the index and of the platform's image counts, and BuildKit's attestations in the index."""
    with RegistryServer() as server:
        there = client(server, http)
        config = artifact.described(
            "application/vnd.oci.image.config.v1+json", b'{"created": "2026-01-02T03:04:05.123456789Z"}'
        )
        there.push_blob(config, b'{"created": "2026-01-02T03:04:05.123456789Z"}')
        image = artifact.make([], subject=None, config=config)
        there.push_manifest(image.entry.digest, OCI_MANIFEST, image.document)
        inside = stated("https://inside").envelope.payload
        layer = artifact.described(wrap.IN_TOTO, inside)
        attestation = artifact.make([layer], subject=None)
        there.push_blob(layer, inside)
        there.push_manifest(attestation.entry.digest, OCI_MANIFEST, attestation.document)
        rows = [
            image.entry.to_json() | {"platform": {"os": "linux", "architecture": "amd64"}},
            attestation.entry.to_json() | {
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": {
                    "vnd.docker.reference.type": "attestation-manifest",
                    "vnd.docker.reference.digest": image.entry.digest,
                },
            },
        ]  # fmt: skip
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}).encode()
        there.push_manifest("v1", OCI_INDEX, index)
        top = artifact.described(OCI_INDEX, index)
        for subject, kind in ((top, "https://index"), (image.entry, "https://image")):
            payload = Statement((Subject("x", {"sha256": subject.hex}),), kind, {}).to_json()
            row = dsse.Signature("", b"1")
            envelope = dsse.Envelope(payload_type=PAYLOAD_TYPE, payload=payload, signatures=(row,))
            signed = Signed(data=dsse.dumps(envelope))
            pieces = wrap.pieces_of(subject, [signed], ())
            there.push_blob(pieces[0].artifact.layers[0], next(iter(pieces[0].blobs.values())))
            there.attach([piece.artifact for piece in pieces])
        found = from_registry(there, lambda _: None, OciPlatform.parse("linux/amd64"))
        assert found.digests == {"oci": top.hex, "platform": image.entry.hex}
        kinds = {json.loads(dsse.parse(raw.data).payload)["predicateType"] for raw in found.envelopes}
        assert kinds == {"https://index", "https://image", "https://inside"}
        assert found.created == 1767323045.123456
        alone = from_registry(there, lambda _: None)
        assert alone.digests == {"oci": top.hex}
        assert len(alone.envelopes) == 1


def test_a_registry_that_fails_is_an_error(http: Http) -> None:
    with RegistryServer() as server:
        there = client(server, http)
    with pytest.raises(HttpError):
        from_registry(there, lambda _: None)
