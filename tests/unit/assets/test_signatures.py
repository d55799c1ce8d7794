"""Signatures of assets: by Ed25519 keys of openssl and OpenSSH, and what is told where one is wrong."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from buildstep.assets.signatures import trusted_of
from buildstep.errors import SigningError
from buildstep.events import Bus
from buildstep.trust.keys.file import ed25519_signer
from buildstep.trust.keys.interface import KeySource, Signer
from tests.unit.trust.keys.pairs import pem_pair, private_key, ssh_pair

pytest.importorskip("cryptography")


def signer_of(path: Path) -> Signer:
    return ed25519_signer(str(path), KeySource(environ={}, bus=Bus()))


def signature(signer: Signer, message: bytes) -> str:
    return base64.b64encode(signer.sign(message)).decode()


@pytest.mark.parametrize("make", [pem_pair, ssh_pair])
def test_what_one_key_signs_the_other_half_knows(tmp_path: Path, make: object) -> None:
    private, public = make(tmp_path)  # type: ignore[operator]
    signer, trusted = signer_of(private), trusted_of([public])
    made = signature(signer, b"message")
    assert made == signature(signer, b"message"), "it is the same each time"
    assert trusted.check(b"message", made, "web-1") == signer.fingerprint
    assert signer.fingerprint.startswith("SHA256:")
    with pytest.raises(SigningError, match="web-1 is not signed by a key that is trusted"):
        trusted.check(b"messagf", made, "web-1")


def test_one_of_several_must_have_signed(tmp_path: Path) -> None:
    pairs = [pem_pair(tmp_path, name) for name in ("a", "b", "c")]
    trusted = trusted_of(public for _, public in pairs[:2])
    assert (
        trusted.check(b"m", signature(signer_of(pairs[1][0]), b"m"), "x")
        == signer_of(pairs[1][0]).fingerprint
    )
    with pytest.raises(SigningError, match="not signed by a key") as caught:
        trusted.check(b"m", signature(signer_of(pairs[2][0]), b"m"), "x")
    assert signer_of(pairs[0][0]).fingerprint in caught.value.detail


@pytest.mark.parametrize(
    ("text", "match"), [("", "is not signed"), ("?", "no base64"), ("c2ln", "not signed by")]
)
def test_signatures_that_are_none(tmp_path: Path, text: str, match: str) -> None:
    trusted = trusted_of([pem_pair(tmp_path)[1]])
    with pytest.raises(SigningError, match=match):
        trusted.check(b"m", text, "x")


def test_only_ed25519_signs_assets(tmp_path: Path) -> None:
    private, public = pem_pair(tmp_path, key=private_key("ecdsa-p256"))
    with pytest.raises(SigningError, match="no Ed25519 key"):
        signer_of(private)
    with pytest.raises(SigningError, match="no Ed25519 key"):
        trusted_of([public])
