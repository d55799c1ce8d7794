"""Records as they are stored: JSON in a DSSE envelope, and what is checked before one is believed.

The payload is an object with the members of `Record`, `format` and `scope`; an output has `name`, `digest`,
`size`, `media`, and `parts` and `data` (base64) where it has them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from buildstep.cache.remote.interface import (
    FORMAT,
    Output,
    Record,
    Unusable,
    Wanted,
    is_digest,
    is_name,
    is_scope,
)
from buildstep.errors import SigningError
from buildstep.system.digest import sha256_bytes
from buildstep.trust import dsse

PAYLOAD_TYPE = "application/vnd.buildstep.cache.record+json"
LARGEST = 512 << 10
"""Bytes of the largest record that is read: more is not even fetched."""
INLINE = 4 << 10
"""Bytes up to which an output lies in its record."""
_MOST_OUTPUTS = 64
_LARGEST_OUTPUT = 1 << 40
_LONGEST_TEXT = 1000


def dumps(record: Record, scope: str, signers: Sequence[dsse.Signs]) -> bytes:
    """Return a record as it is stored. Raises ValueError where it is too large."""
    value = {
        "format": FORMAT, "scope": scope, "kind": record.kind, "key": record.key,
        "inputs": record.inputs, "outputs": [_row(output) for output in record.outputs],
        "facts": record.facts, "seconds": round(record.seconds, 3), "builder": record.builder,
        "made_at": round(record.made_at, 3), "slot": record.slot,
    }  # fmt: skip
    payload = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    data = dsse.seal(PAYLOAD_TYPE, payload, signers)
    if len(data) > LARGEST:
        raise ValueError(f"a record of {len(data)} bytes; {LARGEST} is the most")
    return data


def _row(output: Output) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": output.name, "digest": output.digest, "size": output.size, "media": output.media,
    }  # fmt: skip
    if output.parts:
        row["parts"] = output.parts
    if output.data:
        row["data"] = base64.b64encode(output.data).decode()
    return row


def parse(data: bytes) -> dsse.Envelope:
    """Return the envelope of a stored record, of which nothing is known yet. Raises Unusable."""
    if len(data) > LARGEST:
        raise Unusable(f"the record has more than {LARGEST} bytes")
    try:
        envelope = dsse.parse(data)
    except SigningError as error:
        raise Unusable(f"the record is damaged: {error.message}") from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise Unusable("what lies in the place of the record is something else")
    return envelope


def record_in(envelope: dsse.Envelope, scope: str, wanted: Wanted) -> Record:
    """Return the record of an envelope, which must be the one that was wanted. Raises Unusable.

    Its signature is checked elsewhere, before anything of this is used.
    """
    try:
        value = json.loads(envelope.payload)
        if not isinstance(value, dict):
            raise TypeError("it is no object")
        record = _record(value)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unusable(f"the record is not of the form it should have: {error}") from error
    if value.get("format") != FORMAT:
        raise Unusable("the record is of another format")
    if (record.scope, *record.wanted) != (scope, *wanted):
        raise Unusable(f"the record is for {record.scope} {record.kind} {record.key[:12]}")
    return record


def outputs_of(envelope: dsse.Envelope) -> tuple[Output, ...]:
    """Return the outputs that an envelope names, whoever signed it. Raises Unusable."""
    try:
        return _record(json.loads(envelope.payload)).outputs
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unusable(f"the record is not of the form it should have: {error}") from error


def _record(value: Mapping[str, Any]) -> Record:
    outputs = value["outputs"]
    if not isinstance(outputs, list) or len(outputs) > _MOST_OUTPUTS:
        raise ValueError("outputs")
    found = Record(
        kind=value["kind"], key=value["key"], inputs=_object(value, "inputs"),
        outputs=tuple(_output(row) for row in outputs), facts=_object(value, "facts"),
        seconds=_number(value, "seconds"), builder=_text(value, "builder"),
        made_at=_number(value, "made_at"), slot=_text(value, "slot"), scope=_text(value, "scope"),
    )  # fmt: skip
    names = [output.name for output in found.outputs]
    if len(set(names)) != len(names):
        raise ValueError("two outputs have one name")
    if not is_digest(found.key) or not is_scope(found.scope):
        raise ValueError("key or scope")
    return found


def _output(row: Mapping[str, Any]) -> Output:
    size, parts = row["size"], row.get("parts", "")
    data = base64.b64decode(row.get("data", ""), validate=True)
    found = Output(
        name=row["name"], digest=row["digest"], size=size, media=_text(row, "media"), parts=parts, data=data
    )
    sound = is_name(found.name) and is_digest(found.digest) and (parts == "" or is_digest(parts))
    if not sound or type(size) is not int or not 0 <= size <= _LARGEST_OUTPUT:
        raise ValueError("an output")
    if data and (len(data) != size or sha256_bytes(data) != found.digest):
        raise ValueError("an output has another digest than its bytes")
    return found


def _object(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(value[name], dict):
        raise TypeError(name)
    found: Mapping[str, Any] = value[name]
    return found


def _text(value: Mapping[str, Any], name: str) -> str:
    text = value[name]
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
        raise TypeError(name)
    return text


def _number(value: Mapping[str, Any], name: str) -> float:
    number = value[name]
    if type(number) not in (int, float) or not 0 <= number < 1e12:
        raise TypeError(name)
    return float(number)


def with_signer(record: Record, signer: str) -> Record:
    return replace(record, signer=signer)
