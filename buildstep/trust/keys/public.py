"""Public keys: read in the forms in which others write them, and asked whether they made a signature.

A signature is raw: of Ed25519 (RFC 8032) its 64 bytes, of ECDSA on P-256 with SHA-256 in DER, of RSA with
PKCS #1 v1.5 and SHA-256. These are what cosign 2 and 3 accept, and an ssh-agent makes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from buildstep.errors import SigningError, ToolMissing

Algorithm = Literal["ed25519", "ecdsa-p256", "rsa"]
Message = bytes | mmap.mmap
"""What is signed; a large file is not read into memory for it."""

LARGEST = 64 << 10
"""Bytes of a key's file; a larger one is something else."""

MINISIGN_COMMENT = b"untrusted comment:"
_SHORTEST_RSA = 2048

HOW_TO_MAKE = "`buildstep keygen PREFIX` makes a key"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key. fingerprint: as `ssh-keygen -l` shows it; der: its SubjectPublicKeyInfo (RFC 5280)."""

    algorithm: Algorithm
    fingerprint: str
    der: bytes = field(repr=False)
    _key: Any = field(repr=False, compare=False)

    def verify(self, message: Message, signature: bytes) -> bool:
        """Tell whether the private half of this key made a signature of a message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding

        try:
            match self.algorithm:
                case "ed25519":
                    self._key.verify(signature, message)
                case "ecdsa-p256":
                    self._key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
                case "rsa":
                    self._key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True

    def verify_rsa_sha512(self, message: bytes, signature: bytes) -> bool:
        """Tell the same of a signature by an RSA key with SHA-512, which is what ssh-keygen makes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        if self.algorithm != "rsa":
            return False
        try:
            self._key.verify(signature, message, padding.PKCS1v15(), hashes.SHA512())
        except InvalidSignature:
            return False
        return True

    @property
    def raw(self) -> bytes:
        """The 32 bytes of an Ed25519 key."""
        raw: bytes = self._key.public_bytes_raw()
        return raw

    @property
    def pem(self) -> bytes:
        """SubjectPublicKeyInfo in PEM: what cosign and openssl read."""
        from cryptography.hazmat.primitives import serialization as form

        text: bytes = self._key.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        return text

    @property
    def openssh(self) -> str:
        """The line of an OpenSSH .pub file, without a comment and its end."""
        return _openssh(self._key)

    @property
    def blob(self) -> bytes:
        """The key as OpenSSH has it in signatures (RFC 4253, 6.6)."""
        return base64.b64decode(self.openssh.split()[1])

    @property
    def hint(self) -> str:
        """By which a Sigstore bundle names the key: the base64 of the SHA-256 of `der`."""
        return base64.b64encode(hashlib.sha256(self.der).digest()).decode()


def public_of(path: Path) -> PublicKey:
    """Return the public key of a file. Raises SigningError, ToolMissing without the package cryptography."""
    return public_from(content_of(path), str(path))


def public_from(data: bytes, where: str) -> PublicKey:
    """Return a public key from the content of its file: PEM, a line of OpenSSH, or a .pub of minisign.

    where: it came from, for errors, as `public_of`.
    """
    serialization = serialization_library()
    data = data.strip()
    if data.startswith(MINISIGN_COMMENT) or _is_minisign(data):
        return _minisign(data, where)
    pem = b"-----BEGIN" in data
    load = serialization.load_pem_public_key if pem else serialization.load_ssh_public_key
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = load(data)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        hint = "it holds a private key: give its .pub" if b"PRIVATE KEY" in data else HOW_TO_MAKE
        raise SigningError(f"{where} is not a public key", hint=hint) from error
    return public_key(key, where)


def ed25519_key(key: PublicKey, where: str) -> PublicKey:
    """Return a public key, which has to be an Ed25519 one. Raises SigningError for another."""
    if key.algorithm != "ed25519":
        raise SigningError(f"{where} is no Ed25519 key", hint=HOW_TO_MAKE)
    return key


def public_from_blob(blob: bytes, where: str) -> PublicKey:
    """Return a public key from what OpenSSH has of it in signatures and agents. Raises as `public_from`."""
    kind = blob[4 : 4 + int.from_bytes(blob[:4])]
    return public_from(kind + b" " + base64.b64encode(blob), where)


def public_key(key: Any, where: str) -> PublicKey:
    """Return a public key of the package cryptography as ours. Raises SigningError for other algorithms."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    algorithm: Algorithm
    if isinstance(key, ed25519.Ed25519PublicKey):
        algorithm = "ed25519"
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        algorithm = "ecdsa-p256"
    elif isinstance(key, rsa.RSAPublicKey) and key.key_size >= _SHORTEST_RSA:
        algorithm = "rsa"
    else:
        raise SigningError(
            f"{where} is {_other(key)}, which does not do",
            hint=f"Ed25519, ECDSA on P-256, or RSA of {_SHORTEST_RSA} bits; {HOW_TO_MAKE}",
        )
    der = key.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)
    blob = base64.b64decode(_openssh(key).split()[1])
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return PublicKey(algorithm, f"SHA256:{digest}", der, key)


def _other(key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(key, rsa.RSAPublicKey):
        return f"an RSA key of {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"an ECDSA key on {key.curve.name}"
    return f"a key of another kind ({type(key).__name__.removesuffix('PublicKey')})"


def _openssh(key: Any) -> str:
    from cryptography.hazmat.primitives import serialization as form

    line: bytes = key.public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    return line.decode()


def _is_minisign(data: bytes) -> bool:
    """Tell whether a text is the key of a .pub of minisign, without its comment."""
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) == 42 and raw[:2] == b"Ed"


def _minisign(data: bytes, where: str) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    text = data.splitlines()[-1].strip()
    if not _is_minisign(text):
        raise SigningError(f"{where} is not a public key of minisign", hint=HOW_TO_MAKE)
    return public_key(Ed25519PublicKey.from_public_bytes(base64.b64decode(text)[10:]), where)


def serialization_library() -> Any:
    """Return the module of cryptography that reads keys. Raises ToolMissing where there is none."""
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise ToolMissing(
            "signatures need the Python package cryptography", hint="pip install 'buildstep[signing]'"
        ) from error
    return serialization


def content_of(path: Path) -> bytes:
    """Return what the file of a key holds. Raises SigningError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise SigningError(
            f"cannot read the key {path}: {error.strerror}", hint="is it the right path, and may you read it?"
        ) from error
    if len(data) > LARGEST:
        raise SigningError(f"{path} is not a key: it has more than {LARGEST >> 10} KiB", hint=HOW_TO_MAKE)
    return data
