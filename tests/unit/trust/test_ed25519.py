"""Keys from files of openssl and OpenSSH, signatures, and what is told where one is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.errors import SigningError
from buildstep.trust.ed25519 import signer_of, trusted_of

pytest.importorskip("cryptography")


def pem_pair(folder: Path, name: str = "k") -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private, public = folder / name, folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def ssh_pair(folder: Path, *, passphrase: bytes = b"") -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private, public = folder / "ssh", folder / "ssh.pub"
    how = form.BestAvailableEncryption(passphrase) if passphrase else form.NoEncryption()
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, how))
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH) + b" me@here\n"
    )
    return private, public


@pytest.mark.parametrize("make", [pem_pair, ssh_pair])
def test_what_one_key_signs_the_other_half_knows(tmp_path: Path, make: object) -> None:
    private, public = make(tmp_path)  # type: ignore[operator]
    signer, trusted = signer_of(private), trusted_of([public])
    signature = signer.sign(b"message")
    assert signature == signer.sign(b"message"), "it is the same each time"
    assert trusted.check(b"message", signature, "web-1") == signer.fingerprint
    assert signer.fingerprint.startswith("SHA256:")
    with pytest.raises(SigningError, match="web-1 is not signed by a key that is trusted"):
        trusted.check(b"messagf", signature, "web-1")


def test_one_of_several_must_have_signed(tmp_path: Path) -> None:
    pairs = [pem_pair(tmp_path, name) for name in ("a", "b", "c")]
    trusted = trusted_of(public for _, public in pairs[:2])
    assert trusted.check(b"m", signer_of(pairs[1][0]).sign(b"m"), "x") == signer_of(pairs[1][0]).fingerprint
    with pytest.raises(SigningError, match="not signed by a key") as caught:
        trusted.check(b"m", signer_of(pairs[2][0]).sign(b"m"), "x")
    assert signer_of(pairs[0][0]).fingerprint in caught.value.detail


@pytest.mark.parametrize(
    ("signature", "match"), [("", "is not signed"), ("?", "no base64"), ("c2ln", "not signed by")]
)
def test_signatures_that_are_none(tmp_path: Path, signature: str, match: str) -> None:
    trusted = trusted_of([pem_pair(tmp_path)[1]])
    with pytest.raises(SigningError, match=match):
        trusted.check(b"m", signature, "x")


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    private, public = pem_pair(tmp_path)
    (tmp_path / "text").write_text("no key")
    for call, match in (
        (lambda: signer_of(tmp_path / "nothing"), "cannot read the key .*No such file"),
        (lambda: signer_of(tmp_path / "text"), "is not a private key"),
        (lambda: signer_of(public), "is not a private key"),
        (lambda: trusted_of([private]), "is not a public key"),
        (lambda: trusted_of([tmp_path / "text"]), "is not a public key"),
    ):
        with pytest.raises(SigningError, match=match):
            call()


def test_a_key_of_another_kind_and_one_with_a_passphrase(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec").write_bytes(
        other.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    with pytest.raises(SigningError, match="no Ed25519 key"):
        signer_of(tmp_path / "ec")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    (tmp_path / "locked").write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret")
        )
    )
    with pytest.raises(SigningError, match="has a passphrase"):
        signer_of(tmp_path / "locked")
