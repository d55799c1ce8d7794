"""Pairs of keys for tests, in the forms in which openssl and ssh-keygen write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildstep.events import Bus, Event, Note
from buildstep.trust.keys import signer
from buildstep.trust.keys.file import private_signer
from buildstep.trust.keys.interface import Signer


def private_key(algorithm: str = "ed25519") -> Any:
    """A new key of the package cryptography. algorithm: of ours, or p384 and rsa1024, which do not do."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match algorithm:
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ecdsa-p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "rsa1024":
            return rsa.generate_private_key(65537, 1024)
        case _:
            return rsa.generate_private_key(65537, 2048)


def new_signer(algorithm: str = "ed25519") -> Signer:
    return private_signer(private_key(algorithm), f"a new key ({algorithm})")


def pem_pair(
    folder: Path, name: str = "k", *, key: Any = None, password: bytes = b"", form: str = "PKCS8"
) -> tuple[Path, Path]:
    """Files of a pair in PEM. form: PKCS8, or TraditionalOpenSSL for SEC 1 and PKCS #1."""
    from cryptography.hazmat.primitives import serialization as forms

    key = key or private_key()
    how = forms.BestAvailableEncryption(password) if password else forms.NoEncryption()
    private, public = folder / name, folder / f"{name}.pub"
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(forms.Encoding.PEM, getattr(forms.PrivateFormat, form), how))
    public.write_bytes(
        key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def ssh_pair(folder: Path, name: str = "ssh", *, key: Any = None, password: bytes = b"") -> tuple[Path, Path]:
    """Files of a pair in OpenSSH's form."""
    from cryptography.hazmat.primitives import serialization as forms

    key = key or private_key()
    how = forms.BestAvailableEncryption(password) if password else forms.NoEncryption()
    private, public = folder / name, folder / f"{name}.pub"
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.OpenSSH, how))
    public.write_bytes(
        key.public_key().public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH) + b" me@here\n"
    )
    return private, public


class Notes(Bus):
    """A bus that keeps what it told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        super().__init__(self._keep)

    def _keep(self, event: Event) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)


def signer_of(text: object, environ: Mapping[str, str] | None = None, bus: Bus | None = None) -> Signer:
    """The key that a text names, or a path."""
    return signer(str(text), environ or {}, bus=bus or Bus())
