"""Signatures of container images as every version of cosign, and containers/image, read them.

The format is "atomic container signature" of containers/image, with cosign's type: a JSON document that names
the manifest's digest and the image, and a signature over its bytes, in base64.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from buildstep.errors import SigningError
from buildstep.trust.keys.interface import Signer
from buildstep.trust.keys.public import PublicKey
from buildstep.trust.signatures.content import Content
from buildstep.trust.signatures.interface import Checked

MEDIA_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
"""Of the layer that holds a payload."""

ANNOTATION = "dev.cosignproject.cosign/signature"
"""Of that layer: the signature."""

_TYPE = "cosign container image signature"
_TYPES = (_TYPE, "atomic container signature")


@dataclass(frozen=True, slots=True)
class Payload:
    """What was signed. reference: what the image is called, without tag and digest; digest: `sha256:HEX` of
    its manifest."""

    reference: str
    digest: str
    optional: Mapping[str, Any]


def payload(reference: str, digest: str, optional: Mapping[str, Any] | None = None) -> bytes:
    """Return the document to sign. reference: HOST/NAME; digest: `sha256:HEX` of the manifest or index."""
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": _TYPE,
    }
    return json.dumps({"critical": critical, "optional": optional}, separators=(",", ":")).encode()


def make(document: bytes, signer: Signer) -> str:
    """Return the signature of a payload, as the annotation has it. Raises SigningError."""
    return base64.b64encode(signer.sign(document)).decode()


def check(signature: bytes, content: Content, keys: Sequence[PublicKey]) -> Checked:
    """See `Check`. signature: in base64; content: the payload, whose digest is for the caller to compare."""
    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SigningError("the signature is no base64") from error
    parse(bytes(content.data))
    signers = tuple(key for key in keys if key.verify(content.data, raw))
    why = () if signers else ("the signature is not of this payload by a key that is known",)
    return Checked(signers, (), why)


def parse(document: bytes) -> Payload:
    """Return what a payload says. Raises SigningError for what is none."""
    try:
        value = json.loads(document)
        critical = value["critical"]
        if critical["type"] not in _TYPES:
            raise ValueError("type")
        digest = critical["image"]["docker-manifest-digest"]
        reference = critical["identity"]["docker-reference"]
        if not isinstance(digest, str) or not isinstance(reference, str):
            raise TypeError("no text")
        optional = value.get("optional") or {}
        return Payload(reference, digest, dict(optional))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SigningError("it is no signed document about an image") from error
