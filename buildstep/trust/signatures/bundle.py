"""Sigstore bundles, version 0.3, with a key: what `cosign verify-blob --bundle` and image referrers have.

JSON: {"mediaType", "verificationMaterial": {"publicKey": {"hint"}}} and either "messageSignature"
{"messageDigest": {"algorithm", "digest"}, "signature"}, of bytes, or "dsseEnvelope" with one signature.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from buildstep.errors import SigningError
from buildstep.trust import dsse
from buildstep.trust.keys.interface import Signer
from buildstep.trust.keys.public import PublicKey
from buildstep.trust.signatures.content import Content
from buildstep.trust.signatures.interface import Checked

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MEDIA_TYPES = (MEDIA_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle that was read; nothing of it is true yet. hint: of the key; digest and signature: of bytes;
    else the envelope."""

    hint: str
    digest: bytes = b""
    signature: bytes = b""
    envelope: dsse.Envelope | None = None


def make(content: Content, signer: Signer) -> bytes:
    """Return the bundle of some content, for `cosign verify-blob --bundle`. Raises SigningError."""
    digest = base64.b64encode(content.sha256).decode()
    signature = base64.b64encode(signer.sign(content.data)).decode()
    message = {"messageDigest": {"algorithm": "SHA2_256", "digest": digest}, "signature": signature}
    return _bundle(signer.public.hint, {"messageSignature": message})


def of_envelope(envelope: bytes, key: PublicKey) -> bytes:
    """Return the bundle of an envelope, with the signature by one key alone: a bundle has no more.

    Raises SigningError where that key has made none.
    """
    found = dsse.parse(envelope)
    for row in found.signatures:
        if key.verify(found.message, row.sig):
            return of_signature(found, row, key.hint)
    raise SigningError(f"the envelope has no signature by {key.fingerprint}")


def of_signature(envelope: dsse.Envelope, signature: dsse.Signature, hint: str) -> bytes:
    """Return the bundle of an envelope and one of its signatures; the same is the same bytes. hint: of the
    key that made it."""
    one = json.loads(dsse.dumps(replace(envelope, signatures=(signature,))))
    return _bundle(hint, {"dsseEnvelope": one})


def check(signature: bytes, content: Content, keys: Sequence[PublicKey]) -> Checked:
    """See `Check`. A bundle with an envelope is a signature of the envelope, and of no bytes: `parse` gives
    that envelope, and its subjects are for the caller to compare."""
    found = parse(signature)
    claimed = (_named(found.hint, keys),)
    if found.envelope is not None:
        raise SigningError("the bundle holds a statement, and no signature of the bytes")
    if found.digest and found.digest != content.sha256:
        return Checked((), claimed, ("the bundle is of other bytes",))
    signers = tuple(key for key in keys if key.verify(content.data, found.signature))
    why = () if signers else ("the signature is not of these bytes by a key that is known",)
    return Checked(signers, claimed, why)


def parse(data: bytes) -> Bundle:
    """Return what a bundle holds. Raises SigningError for what is none, or is not signed by a key."""
    try:
        value = json.loads(data)
        if value["mediaType"] not in MEDIA_TYPES:
            raise SigningError(f"it is a bundle of another version: {value['mediaType']!s:.100}")
        material = value["verificationMaterial"]
        if "publicKey" not in material:
            raise SigningError(
                "the bundle is signed with a certificate, and not with a key",
                hint="cosign can verify that one",
            )
        hint = str(material["publicKey"].get("hint", ""))
        has = [name for name in ("messageSignature", "dsseEnvelope") if name in value]
        if len(has) != 1:
            raise ValueError("one of two")
        if has == ["dsseEnvelope"]:
            envelope = dsse.parse(json.dumps(value["dsseEnvelope"]).encode())
            if len(envelope.signatures) != 1:
                raise SigningError("the bundle has not exactly one signature")
            return Bundle(hint=hint, envelope=envelope)
        message = value["messageSignature"]
        digest = b""
        if "messageDigest" in message:
            if message["messageDigest"]["algorithm"] != "SHA2_256":
                raise ValueError("algorithm")
            digest = base64.b64decode(message["messageDigest"]["digest"], validate=True)
        signature = base64.b64decode(message["signature"], validate=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise SigningError("it is no Sigstore bundle") from error
    return Bundle(hint=hint, digest=digest, signature=signature)


def _bundle(hint: str, content: Mapping[str, Any]) -> bytes:
    value = {"mediaType": MEDIA_TYPE, "verificationMaterial": {"publicKey": {"hint": hint}}, **content}
    return json.dumps(value, separators=(",", ":")).encode()


def _named(hint: str, keys: Sequence[PublicKey]) -> str:
    """Return the fingerprint of the key that a hint means, if it is known."""
    return next((key.fingerprint for key in keys if key.hint == hint), f"hint:{hint}")
