"""DSSE envelopes: the form that others read, and what is refused."""

from __future__ import annotations

import base64
import json

import pytest

from buildstep.errors import SigningError
from buildstep.trust import dsse


def test_what_is_signed_is_what_the_protocol_says() -> None:
    # The example of the protocol itself.
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_is_read_as_it_was_written() -> None:
    secret = dsse.Secret("team", b"a secret of many bytes")
    data = dsse.seal("application/x", b"payload", [secret])
    assert set(json.loads(data)) == {"payloadType", "payload", "signatures"}
    found = dsse.parse(data)
    assert (found.payload_type, found.payload) == ("application/x", b"payload")
    assert found.signatures[0].keyid == "hmac:team"
    assert found.signed_by(secret.verify)
    assert not found.signed_by(dsse.Secret("team", b"another secret of many").verify)


def test_a_signature_is_over_type_and_payload() -> None:
    secret = dsse.Secret("team", b"a secret of many bytes")
    value = json.loads(dsse.seal("application/x", b"payload", [secret]))
    for change in ({"payloadType": "application/y"}, {"payload": base64.b64encode(b"other").decode()}):
        assert not dsse.parse(json.dumps(value | change).encode()).signed_by(secret.verify)


def test_both_alphabets_of_base64_are_read() -> None:
    payload = bytes(range(256))
    value = json.loads(dsse.seal("t", payload, []))
    value["payload"] = base64.urlsafe_b64encode(payload).decode()
    assert dsse.parse(json.dumps(value).encode()).payload == payload


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b"\xff", b'{"payloadType": 1, "payload": "", "signatures": []}',
        b'{"payloadType": "t", "payload": "***", "signatures": []}',
        b'{"payloadType": "t", "payload": "", "signatures": [1]}',
        b'{"payloadType": "t", "payload": "", "signatures": [{"sig": 5}]}',
        b'{"payloadType": "t", "payload": "", "signatures": ' + json.dumps([{"sig": ""}] * 17).encode() + b"}",
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(SigningError):
        dsse.parse(data)
