"""Ed25519 signatures (RFC 8032) with keys from files: PEM as openssl writes it, or OpenSSH's own form.

`openssl genpkey -algorithm ed25519 -out KEY` makes a key, `openssl pkey -in KEY -pubout` its public half;
`ssh-keygen -t ed25519` makes both.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.errors import SigningError, ToolMissing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_LARGEST = 64 << 10
"""Bytes of a key's file; a larger one is something else."""


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key. fingerprint: of its public half, as `ssh-keygen -l` shows it."""

    fingerprint: str
    _key: Ed25519PrivateKey = field(repr=False)

    def sign(self, message: bytes) -> str:
        """Return the signature of a message, in base64; it is the same each time."""
        return base64.b64encode(self._key.sign(message)).decode()


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key. fingerprint: as `ssh-keygen -l` shows it."""

    fingerprint: str
    _key: Ed25519PublicKey = field(repr=False)

    def made(self, message: bytes, signature: bytes) -> bool:
        """Tell whether the private half of this key made a signature of a message."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Trusted:
    """Public keys, of which one must have signed. keys: each with its fingerprint."""

    keys: tuple[tuple[str, Ed25519PublicKey], ...] = field(repr=False)

    def check(self, message: bytes, signature: str, what: str) -> str:
        """Return the fingerprint of the key that has signed a message.

        signature: in base64. Raises SigningError where it is missing, or none of these keys made it. what: is
        signed, for the error.
        """
        from cryptography.exceptions import InvalidSignature

        if not signature:
            raise SigningError(f"{what} is not signed", hint="push it again with --key and --replace")
        try:
            raw = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError):
            raise SigningError(f"the signature of {what} is no base64") from None
        for fingerprint, key in self.keys:
            try:
                key.verify(raw, message)
            except InvalidSignature:
                continue
            return fingerprint
        known = ", ".join(fingerprint for fingerprint, _ in self.keys)
        raise SigningError(
            f"{what} is not signed by a key that is trusted here",
            detail=f"trusted: {known}",
            hint="it was signed with another key, or altered since",
        )


def signer_of(path: Path) -> Signer:
    """Return the private key of a file. Raises SigningError, ToolMissing without the package cryptography."""
    return signer_from(_content(path), str(path))


def signer_from(data: bytes, where: str) -> Signer:
    """Return a private key from the content of its file. where: it came from, for errors, as `signer_of`."""
    serialization, ed25519 = _library()
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    key = _loaded(where, "a private key", load, data, password=None)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SigningError(f"{where} is no Ed25519 key", hint=_MAKE)
    return Signer(_fingerprint(key.public_key()), key)


def trusted_of(paths: Iterable[Path]) -> Trusted:
    """Return the public keys of some files, one in each. Raises SigningError, ToolMissing."""
    return Trusted(tuple(_public(_content(path), str(path)) for path in paths))


def public_from(data: bytes, where: str) -> PublicKey:
    """Return a public key from the content of its file. where: it came from, for errors, as `trusted_of`."""
    return PublicKey(*_public(data, where))


def _public(data: bytes, where: str) -> tuple[str, Ed25519PublicKey]:
    serialization, ed25519 = _library()
    pem = b"-----BEGIN" in data
    load = serialization.load_pem_public_key if pem else serialization.load_ssh_public_key
    key = _loaded(where, "a public key", load, data)
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise SigningError(f"{where} is no Ed25519 key", hint=_MAKE)
    return _fingerprint(key), key


_MAKE = "`openssl genpkey -algorithm ed25519` makes one"


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ToolMissing(
            "signatures need the Python package cryptography", hint="pip install 'buildstep[signing]'"
        ) from error
    return serialization, ed25519


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_LARGEST)
    except OSError as error:
        raise SigningError(f"cannot read the key {path}: {error.strerror}") from error


def _loaded(where: str, what: str, load: Any, data: bytes, **options: Any) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load(data, **options)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        # A TypeError is cryptography's way to say that a passphrase is missing.
        if isinstance(error, TypeError) or "password" in str(error).lower():
            raise SigningError(f"the key {where} has a passphrase", hint="give one without") from error
        raise SigningError(f"{where} is not {what}", hint=_MAKE) from error


def _fingerprint(key: Ed25519PublicKey) -> str:
    """Return how OpenSSH names a public key: the SHA-256 of its own form of it (RFC 4253, 6.6; RFC 8709)."""
    kind, raw = b"ssh-ed25519", key.public_bytes_raw()
    blob = len(kind).to_bytes(4, "big") + kind + len(raw).to_bytes(4, "big") + raw
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
