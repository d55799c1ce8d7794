"""DSSE envelopes: a payload, its type, and signatures over both together.

The form is that of the protocol "DSSE v1.0.0" of secure-systems-lab/dsse: what is signed is `pae` of type and
payload, so that no signature can be taken for one of another type. A signature is by a key (`trust.keys`), or
an HMAC-SHA256 with a secret that all writers and readers share.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from buildstep.errors import SigningError

MAX_SIGNATURES = 16
"""An envelope with more is refused: each costs a check."""


class Signature(NamedTuple):
    """A signature of an envelope. keyid: a hint which key made it, by whoever wrote it; sig: its bytes."""

    keyid: str
    sig: bytes


class Signs(Protocol):
    """What can sign: `trust.keys.interface.Signer`, or a `Secret`."""

    @property
    def fingerprint(self) -> str:
        """The keyid of its signatures."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        ...


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret that signs and checks. name: the keyid of its signatures."""

    name: str
    _value: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        return f"hmac:{self.name}"

    def sign(self, message: bytes) -> bytes:
        return hmac.new(self._value, message, hashlib.sha256).digest()

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Tell whether this secret made a signature of a message."""
        return hmac.compare_digest(self.sign(message), signature)


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """An envelope that was read. Nothing of it is true before a signature was checked."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def message(self) -> bytes:
        """What its signatures are over."""
        return pae(self.payload_type, self.payload)

    def signed_by(self, made: Callable[[bytes, bytes], bool]) -> bool:
        """Tell whether a key has made one of the signatures. made: says so of (message, signature)."""
        message = self.message
        return any(made(message, signature.sig) for signature in self.signatures)


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed ("pre-authentication encoding")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, payload: bytes, signers: Sequence[Signs]) -> bytes:
    """Return an envelope as JSON, with a signature of each signer; with none it is one that nobody signed."""
    message = pae(payload_type, payload)
    made = tuple(Signature(signer.fingerprint, signer.sign(message)) for signer in signers)
    return dumps(Envelope(payload_type=payload_type, payload=payload, signatures=made))


def dumps(envelope: Envelope) -> bytes:
    """Return an envelope as JSON."""
    value = {
        "payloadType": envelope.payload_type,
        "payload": base64.b64encode(envelope.payload).decode(),
        "signatures": [
            {"keyid": row.keyid, "sig": base64.b64encode(row.sig).decode()} for row in envelope.signatures
        ],
    }
    return json.dumps(value, separators=(",", ":")).encode()


def parse(data: bytes) -> Envelope:
    """Read an envelope. Raises SigningError for what is none; the caller has limited its size."""
    try:
        value = json.loads(data)
        kind, payload, rows = value["payloadType"], value["payload"], value["signatures"]
        if not isinstance(kind, str) or not isinstance(rows, list) or len(rows) > MAX_SIGNATURES:
            raise TypeError("a member is of another type")
        return Envelope(
            payload_type=kind,
            payload=_bytes(payload),
            signatures=tuple(Signature(str(row.get("keyid", "")), _bytes(row["sig"])) for row in rows),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SigningError(f"it is no DSSE envelope: {type(error).__name__}") from error


def _bytes(text: object) -> bytes:
    """Return what a text in base64 stands for: the standard alphabet, or the one for URLs."""
    if not isinstance(text, str):
        raise TypeError("no text")
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
