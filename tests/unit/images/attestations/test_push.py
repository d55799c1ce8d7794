"""What is said of images, on its way to registries: how often they are asked, and what stays as it was."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildstep.errors import DeniedError, PublishError, UnsignedError, UsageError, WrongKeyError
from buildstep.formats.oci import artifact
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.layout_writer import LayoutWriter
from buildstep.formats.oci.spec import OCI_MANIFEST
from buildstep.images.attestations import inside, legacy, required
from buildstep.images.attestations.evidence import from_registry
from buildstep.images.attestations.local import Papers, Signing, papers_of, signed_by
from buildstep.images.attestations.push import attest, there_of
from buildstep.images.attestations.required import Demand, words_of
from buildstep.images.attestations.wrap import Document, Signed
from buildstep.net.http import Http
from buildstep.net.referrers import ReferrerRegistry, fallback_tag
from buildstep.net.registry import Reference
from buildstep.trust import dsse
from buildstep.trust.keys.generate import keygen
from buildstep.trust.keys.interface import Signer
from buildstep.trust.policy import of_keys
from buildstep.trust.statements import STATEMENTS
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject
from buildstep.trust.verify.evidence import Evidence, RawEnvelope
from tests.servers.fixtures import bus, http
from tests.servers.registry import RegistryServer

__all__ = ["bus", "http"]

IMAGE = artifact.make([], subject=None)
SUBJECT = IMAGE.entry
DOCUMENT = Document(name="x.spdx.json", media_type="application/spdx+json", data=b"{}")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    """A key whose signatures are another each time."""
    return keygen(tmp_path_factory.mktemp("key") / "key", "ecdsa")[0]


def stated(name: str, hexa: str = SUBJECT.hex, **predicate: object) -> Signed:
    kind = STATEMENTS[name].predicate_types[0]
    payload = Statement((Subject("x", {"sha256": hexa}),), kind, predicate).to_json()
    return Signed(data=dsse.seal(PAYLOAD_TYPE, payload, ()))


def client(server: RegistryServer, http: Http) -> ReferrerRegistry:
    found = ReferrerRegistry(Reference.parse(f"docker://{server.host}/x:v1"), http=http)
    found.push_manifest("v1", OCI_MANIFEST, IMAGE.document)
    return found


def papers() -> Papers:
    return Papers(signed=(stated("provenance"), stated("spdx")), documents=(DOCUMENT,))


@pytest.mark.parametrize("known", [True, False])
def test_again_nothing_is_written(known: bool, http: Http, signer: Signer) -> None:
    """Although each signature would be another one."""
    with RegistryServer(referrers=known, page=100) as server:
        there = client(server, http)

        def once() -> dict[str, str]:
            signing = Signing(signers=(signer,))
            done = signed_by(papers(), SUBJECT, "x", signing, lambda: there_of(there, SUBJECT))
            return attest(there, SUBJECT, done, signing)

        # Two statements, the signature of the image, the document; cosign's two tags.
        assert len(once()) == 6
        before = dict(server.content)
        server.calls.clear()
        assert once() == {}
        assert server.writes("") == []
        assert server.content == before


def test_what_is_signed_already_asks_for_nothing_more(http: Http, signer: Signer) -> None:
    signing = Signing(signers=(signer,))
    done = signed_by(papers(), SUBJECT, "x", signing)

    def never() -> tuple[RawEnvelope, ...]:
        raise AssertionError

    assert signed_by(done, SUBJECT, "x", signing, never).signed == done.signed
    with RegistryServer(referrers=True, page=100) as server:
        there = client(server, http)
        attest(there, SUBJECT, done)
        server.calls.clear()
        attest(there, SUBJECT, done)
        # The list, twice; cosign's tag.
        assert len(server.calls) <= 3


def test_each_message_is_signed_once(signer: Signer) -> None:
    made: list[bytes] = []

    def sign(message: object) -> bytes:
        made.append(bytes(message))  # type: ignore[call-overload]
        return signer.sign(bytes(message))  # type: ignore[call-overload]

    signing = Signing(signers=(replace(signer, _make=sign),))
    first = signed_by(papers(), SUBJECT, "x", signing)
    assert signed_by(papers(), SUBJECT, "x", signing) == first
    assert len(made) == 3


def test_what_others_have_put_there_stays(http: Http, signer: Signer, tmp_path: Path) -> None:
    other, _ = keygen(tmp_path / "other", "ed25519")
    with RegistryServer() as server:
        there = client(server, http)
        for one in (other, signer):
            signing = Signing(signers=(one,))
            attest(there, SUBJECT, signed_by(papers(), SUBJECT, "x", signing), signing)
        for suffix, count in (("sig", 2), ("att", 4)):
            path = f"manifests/{legacy.tag_of(SUBJECT.digest, suffix)}"
            assert len(json.loads(server.content[path][0])["layers"]) == count
        found = from_registry(there, lambda _: None)
        # Three by each key: two statements, and the signature of the image.
        assert len([raw for raw in found.envelopes if dsse.parse(raw.data).signatures]) == 6


@pytest.mark.parametrize("etags", [True, False])
def test_two_publish_at_once(etags: bool, http: Http, signer: Signer, tmp_path: Path) -> None:
    """What one has written is written over by the other, who read before: it is found before a tag is set."""
    other, _ = keygen(tmp_path / "other", "ed25519")
    with RegistryServer(etags=etags) as server:
        there, beside = client(server, http), client(server, http)
        tags = {fallback_tag(SUBJECT.digest), *(legacy.tag_of(SUBJECT.digest, end) for end in ("sig", "att"))}
        left = {f"manifests/{tag}" for tag in tags}

        def between(path: str) -> None:
            """Our write is under way, and the other one comes in between, or at the same time just before."""
            if path in left:
                left.discard(path)
                signing = Signing(signers=(other,))
                attest(beside, SUBJECT, signed_by(papers(), SUBJECT, "x", signing), signing)

        server.before_put = between
        signing = Signing(signers=(signer,))
        attest(there, SUBJECT, signed_by(papers(), SUBJECT, "x", signing), signing)
        server.before_put = lambda _: None
        # The other one looks again before its tag, as ours has done.
        signing = Signing(signers=(other,))
        attest(beside, SUBJECT, signed_by(papers(), SUBJECT, "x", signing), signing)
        found = from_registry(there, lambda _: None)
        assert len([raw for raw in found.envelopes if dsse.parse(raw.data).signatures]) == 6
        assert len(found.signatures) == 2


def test_a_tag_that_is_no_image_is_replaced(http: Http, signer: Signer) -> None:
    with RegistryServer() as server:
        there = client(server, http)
        server.content[f"manifests/{legacy.tag_of(SUBJECT.digest, 'sig')}"] = (b"[]", "text/plain")
        attest(there, SUBJECT, Papers(), Signing(signers=(signer,)))
        assert len(from_registry(there, lambda _: None).signatures) == 1


# -- files beside an image --------------------------------------------------------------------------------


def test_files_beside_an_image(tmp_path: Path) -> None:
    stem = tmp_path / "x-1"
    lines = [stated("provenance").data, b"", stated("tests", "0" * 64).data]
    (tmp_path / "x-1.intoto.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "x-1.spdx.json").write_bytes(b"{}")
    (tmp_path / "x-1.sig").write_bytes(b"of the archive")
    found = papers_of(stem, SUBJECT)
    assert [item.predicate_type for item in found.signed] == ["https://slsa.dev/provenance/v1"]
    assert found.others == 1
    assert found.documents == (replace(DOCUMENT, name="x-1.spdx.json"),)
    (tmp_path / "x-1.intoto.jsonl").write_bytes(b"{}\n")
    with pytest.raises(PublishError, match="line 1: it is no DSSE envelope"):
        papers_of(stem, SUBJECT)


def test_there_and_back_in_a_layout(tmp_path: Path, signer: Signer) -> None:
    """No index lists them, and what is read makes the same artifacts again."""
    done = signed_by(papers(), SUBJECT, "x", Signing(signers=(signer,)))
    unsigned = replace(done, signed=(*done.signed, stated("cyclonedx")))
    writer = LayoutWriter(tmp_path)
    writer.add_document(SUBJECT, IMAGE.document)
    writer.name("v1", SUBJECT)
    assert inside.put(writer, SUBJECT, unsigned) == 5
    assert inside.put(writer, SUBJECT, unsigned) == 0
    layout = open_layout(tmp_path, "it")
    assert list(layout.tags()) == ["v1"]
    found = inside.papers_in(layout, SUBJECT.digest)
    assert inside.put(writer, SUBJECT, found) == 0
    assert {item.data for item in found.signed} == {item.data for item in unsigned.signed}
    assert inside.papers_in(layout, "sha256:" + "0" * 64) == Papers()


# -- what is required -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """require: what is wanted; there: statements, signed or not; error: what it is without."""

    require: str
    there: tuple[tuple[str, bool], ...]
    error: type[Exception] | None


CASES = [
    Case("signature", (), UnsignedError),
    Case("signature", (("provenance", True),), DeniedError),
    Case("signature", (("signature", True),), None),
    Case("sbom", (("cyclonedx", True),), None),
    Case("sbom", (("cyclonedx", False),), UnsignedError),
    Case("sbom,tests", (("spdx", True), ("tests", False)), DeniedError),
    Case("provenance", (("provenance", False), ("provenance", True)), None),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_required_without_a_key(case: Case, signer: Signer) -> None:
    envelopes = []
    for name, signed in case.there:
        data = stated(name, result="PASSED").data
        if signed:
            data = dsse.seal(PAYLOAD_TYPE, dsse.parse(data).payload, [signer])
        envelopes.append(RawEnvelope(data, name))
    evidence = Evidence(name="x", digests={"oci": SUBJECT.hex}, envelopes=tuple(envelopes))
    demand = Demand(require=words_of([case.require]))
    if case.error is None:
        required.check(evidence, demand)
        return
    with pytest.raises(case.error, match="nothing was published: x"):
        required.check(evidence, demand)


def test_what_is_required_by_keys(signer: Signer, tmp_path: Path) -> None:
    other, _ = keygen(tmp_path / "other", "ed25519")
    data = dsse.seal(PAYLOAD_TYPE, dsse.parse(stated("signature").data).payload, [other])
    evidence = Evidence(
        name="x", names=("x",), digests={"oci": SUBJECT.hex}, envelopes=(RawEnvelope(data, "it"),)
    )
    required.check(evidence, Demand(require=("signature",)))
    required.check(evidence, Demand(policy=of_keys([("other", other.public)])))
    with pytest.raises(WrongKeyError):
        required.check(evidence, Demand(policy=of_keys([("ours", signer.public)])))
    with pytest.raises(WrongKeyError):
        required.check(evidence, Demand(require=("signature",), signing=Signing(signers=(signer,))))


def test_all_that_is_missing_is_told(signer: Signer) -> None:
    data = dsse.seal(
        PAYLOAD_TYPE,
        dsse.parse(stated("tests", result="FAILED", failedTests=["a", "b"]).data).payload,
        [signer],
    )
    evidence = Evidence(name="x", digests={"oci": SUBJECT.hex}, envelopes=(RawEnvelope(data, "it"),))
    with pytest.raises(DeniedError) as caught:
        required.check(evidence, Demand(require=("tests", "sbom", "signature")))
    lines = caught.value.detail.splitlines()
    assert len(lines) == 3
    assert "2 tests failed: a, b" in lines[2]


def test_words_that_are_not_known() -> None:
    assert words_of(["tests, sbom", "tests"]) == ("tests", "sbom")
    with pytest.raises(UsageError, match="test, tested is not known"):
        words_of(["test,tested"])
