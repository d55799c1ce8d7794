"""Where things lie in a shared cache, and what their keys are made of. The only module that makes names.

cas/sha256/ab/<64 hex>          bytes, by their SHA-256
ac/1/<scope>/<kind>/<64 hex>    a record, by its kind and key, in the folder of a scope
ac/1/<scope>/slots/<32 hex>/<20 digits>-<kind>-<64 hex>
                                empty: a record of this slot, and when it was made (in milliseconds)
used/<day>/<scope>/<kind>/<64 hex>
                                empty: this record was used on that day, such as 20261130; see `prune`
gc/condemned                    what no record named when a prune looked last

1 is the number of the format, which is in every key as well: what is of another one is not looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from buildstep.cache.remote.interface import FORMAT, KINDS, Kind, Record, Wanted, is_digest

CAS = "cas/sha256/"
AC = f"ac/{FORMAT}/"
USED = "used/"
CONDEMNED = "gc/condemned"

_BLOB = re.compile(r"cas/sha256/[0-9a-f]{2}/([0-9a-f]{64})")
_RECORD = re.compile(rf"ac/{FORMAT}/([a-z0-9._-]+)/([a-z]+)/([0-9a-f]{{64}})")
_SLOT = re.compile(rf"ac/{FORMAT}/([a-z0-9._-]+)/slots/[0-9a-f]{{32}}/(\d{{20}})-([a-z]+)-([0-9a-f]{{64}})")
_USED = re.compile(r"used/(\d{8})/([a-z0-9._-]+)/([a-z]+)/([0-9a-f]{64})")
_PLAIN = re.compile(r"[a-z0-9_][a-z0-9._]{0,39}")


def shared_key(kind: Kind, inputs: Mapping[str, Any]) -> str:
    """Return the key of a record: the SHA-256 of all that decides its outputs, as canonical JSON.

    inputs: JSON values; never names, dates or paths of an agent. The order of an object's members is no part
    of it. Raises ValueError for numbers that are none (NaN).
    """
    text = json.dumps(
        [FORMAT, kind, inputs], sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def blob_name(digest: str) -> str:
    assert is_digest(digest), digest
    return f"{CAS}{digest[:2]}/{digest}"


def digest_of(name: str) -> str:
    """Return the digest that a name of bytes stands for; empty for any other name."""
    match = _BLOB.fullmatch(name)
    return match[1] if match and match[0][11:13] == match[1][:2] else ""


def scope_folder(scope: str) -> str:
    """Return the folder of a scope: its name if that is plain, else a hash of it. No two have the same."""
    if _PLAIN.fullmatch(scope):
        return scope
    return "x-" + hashlib.sha256(scope.encode()).hexdigest()[:32]


def record_name(scope: str, wanted: Wanted) -> str:
    kind, key = wanted
    assert is_digest(key), key
    return f"{AC}{scope_folder(scope)}/{kind}/{key}"


def record_of(name: str) -> tuple[str, str, str] | None:
    """Return scope folder, kind and key of the name of a record; None for any other name."""
    match = _RECORD.fullmatch(name)
    return (match[1], match[2], match[3]) if match else None


def slot_folder(scope: str, slot: str) -> str:
    return f"{AC}{scope_folder(scope)}/slots/{_slot(slot)}/"


def slot_name(scope: str, record: Record) -> str:
    return slot_mark(scope_folder(scope), record.slot, record.made_at, record.kind, record.key)


def slot_mark(folder: str, slot: str, made_at: float, kind: str, key: str) -> str:
    """Return the mark that a slot has a record. folder: of its scope."""
    return f"{AC}{folder}/slots/{_slot(slot)}/{int(made_at * 1000):020}-{kind}-{key}"


def _slot(slot: str) -> str:
    return hashlib.sha256(slot.encode()).hexdigest()[:32]


def wanted_of(name: str) -> Wanted | None:
    """Return kind and key of the record that a name of a slot stands for; None for any other name."""
    match = _SLOT.fullmatch(name)
    if match is None:
        return None
    return next(((kind, match[4]) for kind in KINDS if kind == match[3]), None)


def record_of_slot(name: str) -> str:
    """Return the name of the record that a name of a slot stands for; empty for any other name."""
    match = _SLOT.fullmatch(name)
    return f"{AC}{match[1]}/{match[3]}/{match[4]}" if match else ""


def used_name(day: str, record: str) -> str:
    """Return the mark that a record was used. day: as YYYYMMDD; record: its name."""
    return f"{USED}{day}/{record.removeprefix(AC)}"


def used_of(name: str) -> tuple[str, str] | None:
    """Return the day of a mark and the name of its record; None for any other name."""
    match = _USED.fullmatch(name)
    return (match[1], f"{AC}{match[2]}/{match[3]}/{match[4]}") if match else None
