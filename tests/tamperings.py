"""What an attacker can do to a signed thing: one table for everything that makes or checks signatures.

A tampering is given a statement that was signed, or the bytes of a file and its signature, and returns what the
attacker hands out; every judge has to refuse all of them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

OTHER_SUBJECT = "0" * 64


class Signed(NamedTuple):
    """A file with a detached signature. data: the file's bytes; signature: raw bytes."""

    data: bytes
    signature: bytes


def flipped(data: bytes, at: int = -1) -> bytes:
    """These bytes with one bit changed; at: in which of them, by default the middle one."""
    changed = bytearray(data)
    changed[len(changed) // 2 if at == -1 else at] ^= 1
    return bytes(changed)


# -- envelopes: each is given the JSON object of a DSSE envelope, and an envelope that another key has signed -----

Envelope = dict[str, Any]


def _payload(envelope: Envelope) -> bytes:
    return base64.b64decode(envelope["payload"])


def _with_payload(envelope: Envelope, payload: bytes) -> Envelope:
    return envelope | {"payload": base64.b64encode(payload).decode()}


def _with_statement(envelope: Envelope, **members: object) -> Envelope:
    return _with_payload(envelope, json.dumps(json.loads(_payload(envelope)) | members).encode())


def _signature_bit(envelope: Envelope, _other: Envelope) -> Envelope:
    rows = [row | {"sig": base64.b64encode(flipped(base64.b64decode(row["sig"]))).decode()} for row in
            envelope["signatures"]]  # fmt: skip
    return envelope | {"signatures": rows}


def _swapped_subject(envelope: Envelope, _other: Envelope) -> Envelope:
    return _with_statement(envelope, subject=[{"name": "x", "digest": {"sha256": OTHER_SUBJECT}}])


def _added_subject(envelope: Envelope, _other: Envelope) -> Envelope:
    subjects = json.loads(_payload(envelope))["subject"]
    return _with_statement(envelope, subject=[*subjects, {"name": "x", "digest": {"sha256": OTHER_SUBJECT}}])


def _empty_signature(envelope: Envelope, _other: Envelope) -> Envelope:
    return envelope | {"signatures": [row | {"sig": ""} for row in envelope["signatures"]]}


def _claimed_key(envelope: Envelope, other: Envelope) -> Envelope:
    """The signature of another key, under the name of the right one."""
    rows = [
        theirs | {"keyid": ours.get("keyid", "")}
        for theirs, ours in zip(other["signatures"], envelope["signatures"], strict=True)
    ]
    return other | {"signatures": rows}


ENVELOPES: Mapping[str, Callable[[Envelope, Envelope], Envelope]] = {
    "a bit of the payload": lambda it, _: _with_payload(it, flipped(_payload(it))),
    "a bit of the signature": _signature_bit,
    "another key": lambda _, other: other,
    "another key under the name of the right one": _claimed_key,
    "another subject": _swapped_subject,
    "one subject more": _added_subject,
    "another type of predicate": lambda it, _: _with_statement(it, predicateType="https://example.com/other"),
    "another predicate": lambda it, _: _with_statement(it, predicate={"changed": True}),
    "another type of payload": lambda it, _: it | {"payloadType": "application/vnd.other+json"},
    "no signature": lambda it, _: it | {"signatures": []},
    "an empty signature": _empty_signature,
    "a space at the end of the payload": lambda it, _: _with_payload(it, _payload(it) + b" "),
}
"""Twelve things that can be done to an envelope. Given it, and the same one as another key has signed it."""


def envelope(name: str, line: bytes, other: bytes) -> bytes:
    """An envelope after a tampering. line: the envelope; other: the same payload signed by another key."""
    return json.dumps(ENVELOPES[name](json.loads(line), json.loads(other))).encode()


def kept_good(name: str, line: bytes, other: bytes) -> bytes:
    """An envelope with the bad signature of a tampering before the good one: it still counts, by the good."""
    bad = json.loads(envelope(name, line, other))
    good = json.loads(line)
    return json.dumps(good | {"signatures": [*bad["signatures"], *good["signatures"]]}).encode()


# -- files with detached signatures, raw: what holds a signature (bundle, annotation, armour) is around it ---------

DETACHED: Mapping[str, Callable[[Signed, Signed], Signed]] = {
    "a bit of the file": lambda it, _: it._replace(data=flipped(it.data)),
    "the first bit of the file": lambda it, _: it._replace(data=flipped(it.data, 0)),
    "a file cut short": lambda it, _: it._replace(data=it.data[:-1]),
    "a file with a byte more": lambda it, _: it._replace(data=it.data + b"\0"),
    "an empty file": lambda it, _: it._replace(data=b""),
    "another file": lambda it, _: it._replace(data=bytes(reversed(it.data))),
    "a bit of the signature": lambda it, _: it._replace(signature=flipped(it.signature)),
    "the last bit of the signature": lambda it, _: it._replace(signature=flipped(it.signature, len(it.signature) - 1)),
    "a signature cut short": lambda it, _: it._replace(signature=it.signature[:-1]),
    "a signature with a byte more": lambda it, _: it._replace(signature=it.signature + b"\0"),
    "an empty signature": lambda it, _: it._replace(signature=b""),
    "another key": lambda it, other: it._replace(signature=other.signature),
}  # fmt: skip
"""Twelve things that can be done to a file or its signature. Given both, and the same file as another key has
signed it."""


# -- lines of a file of statements -------------------------------------------------------------------------------

LINES: Mapping[str, Callable[[bytes], bytes]] = {
    "a line cut short": lambda text: text[: len(text) - len(text.splitlines()[-1]) // 2],
    "a line that is no JSON": lambda text: text + b"{not json\n",
    "a line of another kind": lambda text: text + b'{"_type": "link"}\n',
    "an empty line": lambda text: text + b"\n\n",
}
"""What can be done to a file of envelopes, one a line: the damaged line must not count, nor hide the others."""
