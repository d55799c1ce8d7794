"""What is told of assets in a storage of blobs: a small file beside each, and an index of all.

Both are JSON. `~assets/FILE.json`: format, sha256, size, signature. `~assets/index.json`: format, assets: by
file name the same fields and the time (seconds since the epoch) at which the asset was stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from buildstep.assets import names
from buildstep.assets.interface import Details, told_details
from buildstep.assets.names import Name
from buildstep.errors import StoreError

FOLDER = "~assets/"
"""`~` is in no name of a service, so no listing of daybook's has what is in here."""
INDEX = f"{FOLDER}index.json"
FORMAT = 1
_UNREADABLE = (ValueError, OverflowError, RecursionError)
"""What JSON that somebody has made to do harm raises: numbers without end, and nesting without end."""
_HINT = "did somebody alter the store? push the asset again with --replace"


@dataclass(frozen=True, slots=True)
class Row:
    """An asset in an index. modified: seconds since the epoch."""

    details: Details
    modified: float


def sidecar(name: Name) -> str:
    """Return the name of the blob that tells of an asset."""
    return f"{FOLDER}{name.file}.json"


def pack_details(details: Details) -> bytes:
    """Return the content of a sidecar."""
    return _packed({"format": FORMAT, **_fields(details)})


def parse_details(data: bytes, where: str) -> Details:
    """Return what a sidecar says. Raises StoreError for one that says nothing."""
    try:
        value = _loaded(data)
        return _details(value)
    except (*_UNREADABLE, KeyError, TypeError) as error:
        raise StoreError(f"{where} cannot be read: {error}", hint=_HINT) from error


def pack_index(rows: Mapping[str, Row]) -> bytes:
    """Return the content of an index. rows: by file name."""
    assets = {file: {**_fields(row.details), "modified": row.modified} for file, row in sorted(rows.items())}
    return _packed({"format": FORMAT, "assets": assets})


def parse_index(data: bytes, where: str) -> dict[str, Row]:
    """Return the rows of an index by file name. Raises StoreError."""
    try:
        value = _loaded(data)
        return {
            str(file): Row(_details(row), float(row["modified"]))
            for file, row in value["assets"].items()
            if names.parse(file, hyphens=True) is not None
        }
    except (*_UNREADABLE, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{where} cannot be read: {error}", hint="`buildstep assets index` makes it anew"
        ) from error


def _loaded(data: bytes) -> Any:
    value = json.loads(data)
    if value["format"] != FORMAT:
        raise ValueError(f"it has the format {value['format']}, and {FORMAT} is known here")
    return value


def _fields(details: Details) -> dict[str, Any]:
    return {"sha256": details.sha256, "size": details.size, "signature": details.signature}


def _details(value: Any) -> Details:
    return told_details(str(value["sha256"]), int(value["size"]), str(value["signature"]))


def _packed(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
