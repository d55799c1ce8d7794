"""Formats of signatures: what we make we read, and no tampering passes."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from buildstep.errors import SigningError
from buildstep.trust import dsse
from buildstep.trust.keys.interface import Signer
from buildstep.trust.signatures import CHECKS, bundle, minisign, simplesigning, sshsig
from buildstep.trust.signatures.content import Content, content_of
from tests import tamperings
from tests.unit.trust.keys.pairs import new_signer

pytest.importorskip("cryptography")

ALGORITHMS = ("ed25519", "ecdsa-p256", "rsa")
DATA = b"the bytes of an image" * 100


@pytest.fixture(scope="module", params=ALGORITHMS)
def key(request: pytest.FixtureRequest) -> Signer:
    return new_signer(request.param)


@pytest.fixture(scope="module")
def others() -> dict[str, Signer]:
    """Another key of each kind."""
    return {name: new_signer(name) for name in ALGORITHMS}


def raw_of(kind: str, text: bytes) -> bytes:
    """The raw signature inside a format."""
    if kind == "bundle":
        return base64.b64decode(json.loads(text)["messageSignature"]["signature"])
    return base64.b64decode(text)


def rewrapped(kind: str, text: bytes, raw: bytes) -> bytes:
    """The text of a format with another raw signature."""
    if kind == "bundle":
        value = json.loads(text)
        value["messageSignature"]["signature"] = base64.b64encode(raw).decode()
        return json.dumps(value).encode()
    return base64.b64encode(raw)


@pytest.mark.parametrize("name", tamperings.DETACHED)
@pytest.mark.parametrize("kind", ["bundle", "simplesigning"])
def test_raw_signatures(kind: str, name: str, key: Signer, others: dict[str, Signer]) -> None:
    data = DATA if kind == "bundle" else simplesigning.payload("host/web", "sha256:" + "1" * 64)
    other = others[key.algorithm]

    def made(by: Signer) -> bytes:
        return bundle.make(Content(data), by) if kind == "bundle" else simplesigning.make(data, by).encode()

    text = made(key)
    assert CHECKS[kind](text, Content(data), [other.public, key.public]).signers == (key.public,)
    assert CHECKS[kind](text, Content(data), [other.public]).signers == ()
    signed = tamperings.Signed(data, raw_of(kind, text))
    bad = tamperings.DETACHED[name](signed, tamperings.Signed(data, raw_of(kind, made(other))))
    try:
        found = CHECKS[kind](rewrapped(kind, text, bad.signature), Content(bad.data), [key.public])
    except SigningError:
        return  # a payload that is no document any more
    assert found.signers == ()
    assert found.why


@pytest.mark.parametrize("name", tamperings.DETACHED)
def test_signatures_of_ssh(name: str, key: Signer, others: dict[str, Signer]) -> None:
    text = sshsig.make(Content(DATA), key)
    found = sshsig.check(text, Content(DATA), [key.public])
    assert (found.signers, found.claimed) == ((key.public,), (key.fingerprint,))
    (one,) = sshsig.parse(text)
    theirs = sshsig.parse(sshsig.make(Content(DATA), others[key.algorithm]))[0]
    bad = tamperings.DETACHED[name](
        tamperings.Signed(DATA, one.signature), tamperings.Signed(DATA, theirs.signature)
    )
    raw = base64.b64decode(b"".join(text.splitlines()[1:-1]))
    spoiled = raw.replace(one.signature, bad.signature)
    if len(spoiled) != len(raw):  # the lengths around it as an attacker would mend them
        from buildstep.net.ssh_agent import string

        inner = string(one.algorithm.encode()) + string(one.signature)
        spoiled = raw.replace(string(inner), string(string(one.algorithm.encode()) + string(bad.signature)))
    lines = (
        b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(spoiled) + b"\n-----END SSH SIGNATURE-----\n"
    )
    assert sshsig.check(lines, Content(bad.data), [key.public]).signers == ()


def test_a_signature_of_ssh_for_another_purpose_does_not_count(key: Signer) -> None:
    text = sshsig.make(Content(DATA), key, namespace="git")
    found = sshsig.check(text, Content(DATA), [key.public])
    assert found.signers == ()
    assert "it is for 'git', and not for 'buildstep@v1'" in found.why[0]
    assert sshsig.check(text, Content(DATA), [key.public], namespace="git").signers == (key.public,)


def test_signatures_of_several_keys_in_one_file(others: dict[str, Signer]) -> None:
    text = b"".join(sshsig.make(Content(DATA), one) for one in others.values())
    keys = [one.public for one in others.values()]
    assert sshsig.check(text, Content(DATA), keys).signers == tuple(keys)
    for bad in (text[:-40], text + b"x", b"", b"x", text * 6, b"-----BEGIN SSH SIGNATURE-----\n"):
        with pytest.raises(SigningError):
            sshsig.parse(bad)


@pytest.mark.parametrize("name", tamperings.DETACHED)
def test_signatures_of_minisign(name: str) -> None:
    key, other = new_signer(), new_signer()
    text = minisign.make(Content(DATA), key, "web-1 of today")
    assert minisign.check(text, Content(DATA), [other.public, key.public]).signers == (key.public,)
    one = minisign.parse(text)
    theirs = minisign.parse(minisign.make(Content(DATA), other, "web-1 of today"))
    bad = tamperings.DETACHED[name](
        tamperings.Signed(DATA, one.signature), tamperings.Signed(DATA, theirs.signature)
    )
    lines = text.split(b"\n")
    lines[1] = base64.b64encode(b"ED" + one.ident + bad.signature)
    try:
        found = minisign.check(b"\n".join(lines), Content(bad.data), [key.public])
    except SigningError:
        return
    assert found.signers == ()


def test_the_comment_of_minisign_is_signed_as_well() -> None:
    key = new_signer()
    text = minisign.make(Content(DATA), key, "version 1")
    assert not minisign.check(text.replace(b"version 1", b"version 2"), Content(DATA), [key.public]).signers
    assert not minisign.check(text, Content(DATA), [new_signer("rsa").public]).signers
    for bad in (
        b"",
        text[:-30],
        text.replace(b"untrusted", b"un"),
        text.replace(b"RU", b"??"),
        text + b"x\n",
    ):
        with pytest.raises(SigningError):
            minisign.parse(bad)
    with pytest.raises(SigningError, match="cannot sign as minisign does"):
        minisign.make(Content(DATA), new_signer("rsa"), "x")


@pytest.mark.parametrize("name", tamperings.ENVELOPES)
def test_envelopes(name: str, key: Signer, others: dict[str, Signer]) -> None:
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "web", "digest": {"sha256": "1" * 64}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {},
    }
    payload = json.dumps(statement).encode()
    line = dsse.seal("application/vnd.in-toto+json", payload, [key])
    other = dsse.seal("application/vnd.in-toto+json", payload, [others[key.algorithm]])
    assert dsse.parse(line).signed_by(key.public.verify)
    assert not dsse.parse(tamperings.envelope(name, line, other)).signed_by(key.public.verify)
    if name in ("a bit of the signature", "another key", "an empty signature"):
        assert dsse.parse(tamperings.kept_good(name, line, other)).signed_by(key.public.verify)


def test_an_envelope_in_a_bundle_has_one_signature(others: dict[str, Signer]) -> None:
    keys = list(others.values())
    line = dsse.seal("application/x", b"payload", keys)
    for one in keys:
        found = bundle.parse(bundle.of_envelope(line, one.public))
        assert found.envelope is not None
        assert found.envelope.signed_by(one.public.verify)
        assert len(found.envelope.signatures) == 1
        assert found.hint == one.public.hint
    with pytest.raises(SigningError, match="has no signature by"):
        bundle.of_envelope(line, new_signer().public)
    with pytest.raises(SigningError, match="holds a statement"):
        bundle.check(bundle.of_envelope(line, keys[0].public), Content(b"payload"), [keys[0].public])


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"},
        {"verificationMaterial": {"certificate": {}}},
        {"verificationMaterial": []},
        {"messageSignature": None},
        {"messageSignature": {"messageDigest": {"algorithm": "MD5", "digest": ""}, "signature": ""}},
        {"dsseEnvelope": {}},
    ],
)
def test_bundles_that_are_none(change: dict[str, object]) -> None:
    value = json.loads(bundle.make(Content(DATA), new_signer()))
    with pytest.raises(SigningError):
        bundle.parse(json.dumps(value | change).encode())
    with pytest.raises(SigningError):
        bundle.parse(b"[" * 100_000)


def test_payloads_that_are_none() -> None:
    found = simplesigning.parse(simplesigning.payload("host/web", "sha256:ab", {"by": "ci"}))
    assert (found.reference, found.digest, found.optional) == ("host/web", "sha256:ab", {"by": "ci"})
    for bad in (b"", b"[]", b"{}", b'{"critical": {"type": "x"}}', b"[" * 100_000):
        with pytest.raises(SigningError):
            simplesigning.parse(bad)


def test_the_digests_of_a_file_are_those_of_its_bytes(tmp_path: Path) -> None:
    import hashlib

    for size in (0, 1, (4 << 20) + 1):
        (tmp_path / "f").write_bytes(b"x" * size)
        with content_of(tmp_path / "f") as content:
            content.compute()
            for name in ("sha256", "sha512", "blake2b"):
                assert getattr(content, name) == hashlib.new(name, b"x" * size).digest()
    with pytest.raises(SigningError, match="cannot read"), content_of(tmp_path / "no"):
        pass


@pytest.mark.commands("ssh-keygen")
def test_ssh_keygen_accepts_ours_and_we_accept_its(tmp_path: Path, key: Signer) -> None:
    (tmp_path / "f").write_bytes(DATA)
    (tmp_path / "f.sig").write_bytes(sshsig.make(Content(DATA), key))
    (tmp_path / "allowed").write_text(f'ci namespaces="buildstep@v1" {key.public.openssh}\n')
    argv = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "ci", "-n", "buildstep@v1", "-s", "f.sig"]
    done = subprocess.run(argv, cwd=tmp_path, input=DATA, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert key.fingerprint in done.stdout.decode()
    done = subprocess.run(argv, cwd=tmp_path, input=DATA + b"x", capture_output=True, timeout=20, check=False)
    assert done.returncode != 0
