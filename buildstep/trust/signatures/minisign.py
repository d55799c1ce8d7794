"""Signatures of minisign, and of OpenBSD's signify: Ed25519, with a comment that is signed as well.

A .minisig has four lines: an untrusted comment; the base64 of algorithm, key id (8 bytes) and signature (64);
a trusted comment; the base64 of a signature over signature and trusted comment. The algorithm "ED" signs the
BLAKE2b of the content, "Ed" the content itself. A .pub has a comment, and the base64 of "Ed", id and key.
signify's .sig has the first two lines only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from buildstep.errors import SigningError
from buildstep.trust.keys.interface import Signer
from buildstep.trust.keys.public import PublicKey
from buildstep.trust.signatures.content import Content
from buildstep.trust.signatures.interface import Checked

_UNTRUSTED, _TRUSTED = b"untrusted comment: ", b"trusted comment: "
_ID = 8
_SIGNATURE = 64


@dataclass(frozen=True, slots=True)
class MiniSignature:
    """A signature that was read; nothing of it is true yet. hashed: whether it is over the BLAKE2b; glob: the
    signature over the comment, None of signify's."""

    hashed: bool
    ident: bytes
    signature: bytes
    comment: bytes
    glob: bytes | None

    @property
    def key_id(self) -> str:
        """As minisign shows it: the number that the bytes are, the lowest first."""
        return f"{int.from_bytes(self.ident, 'little'):016X}"


def key_id(key: PublicKey) -> bytes:
    """Return the id of a key that was not made by minisign, which draws one: here it is of the key itself."""
    return hashlib.sha256(key.raw).digest()[:_ID]


def public_file(key: PublicKey) -> bytes:
    """Return the .pub of an Ed25519 key, for `minisign -p`."""
    ident = key_id(key)
    number = f"{int.from_bytes(ident, 'little'):016X}".encode()
    line = base64.b64encode(b"Ed" + ident + key.raw)
    return _UNTRUSTED + b"minisign public key " + number + b"\n" + line + b"\n"


def make(content: Content, signer: Signer, comment: str) -> bytes:
    """Return the .minisig of some content, by an Ed25519 key. comment: is signed as well, one line. Raises
    SigningError."""
    text = comment.encode()
    if signer.algorithm != "ed25519" or b"\n" in text or b"\r" in text:
        raise SigningError(f"{signer.where} cannot sign as minisign does", hint="it needs an Ed25519 key")
    signature = signer.sign(content.blake2b)
    first = base64.b64encode(b"ED" + key_id(signer.public) + signature)
    second = base64.b64encode(signer.sign(signature + text))
    return b"\n".join((_UNTRUSTED + b"signature from buildstep", first, _TRUSTED + text, second)) + b"\n"


def check(signature: bytes, content: Content, keys: Sequence[PublicKey]) -> Checked:
    """See `Check`."""
    found = parse(signature)
    signers = []
    message = content.blake2b if found.hashed else content.data
    for key in keys:
        if key.algorithm != "ed25519" or not key.verify(message, found.signature):
            continue
        if found.glob is None or key.verify(found.signature + found.comment, found.glob):
            signers.append(key)
    why = () if signers else ("the signature is not of these bytes and its comment, by a key that is known",)
    return Checked(tuple(signers), (f"minisign:{found.key_id}",), why)


def parse(data: bytes) -> MiniSignature:
    """Return the signature of a .minisig or a .sig of signify. Raises SigningError where it holds none."""
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    try:
        if len(lines) not in (2, 4) or not lines[0].startswith(_UNTRUSTED):
            raise ValueError("lines")
        raw = base64.b64decode(lines[1], validate=True)
        kind, ident, signature = raw[:2], raw[2 : 2 + _ID], raw[2 + _ID :]
        if kind not in (b"ED", b"Ed") or len(signature) != _SIGNATURE:
            raise ValueError("algorithm")
        if len(lines) == 2:
            if kind == b"ED":
                raise ValueError("the trusted comment is missing")
            return MiniSignature(False, ident, signature, b"", None)
        glob = base64.b64decode(lines[3], validate=True)
        if not lines[2].startswith(_TRUSTED) or len(glob) != _SIGNATURE:
            raise ValueError("trusted comment")
    except (ValueError, binascii.Error) as error:
        raise SigningError("it is no signature of minisign") from error
    return MiniSignature(kind == b"ED", ident, signature, lines[2].removeprefix(_TRUSTED), glob)
