"""JSON documents that say whether they are what was written.

The last member of each, `check`, is the SHA-256 of the bytes up to the comma before it, so that any bit that
changed anywhere is noticed. To people and to other programs it is an ordinary JSON object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildstep.system.files import atomic_write

_BEFORE, _AFTER = b',\n  "check": "', b'"\n}\n'


class Unsealed(ValueError):
    """What a file holds is not what was written to it, or has no `check`."""


def write(path: Path, value: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write a JSON object with its `check` atomically. It must not be empty. Raises OSError."""
    head = json.dumps(value, indent=2).encode().removesuffix(b"\n}")
    with atomic_write(path, durable=durable) as stream:
        stream.writelines((head, _BEFORE, hashlib.sha256(head).hexdigest().encode(), _AFTER))


def read(path: Path) -> dict[str, Any]:
    """Return the object in a file, without `check`. Raises OSError, and Unsealed for damage."""
    data = path.read_bytes()
    head, before, check = data.rpartition(_BEFORE)
    if not before or check != hashlib.sha256(head).hexdigest().encode() + _AFTER:
        raise Unsealed("it is not what was written")
    value: dict[str, Any] = json.loads(head + b"\n}")
    return value
