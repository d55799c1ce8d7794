"""What a build record says of the files beside its image, once somebody has signed these."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from buildstep.trust.keys.interface import Signer


def renewed(record: bytes, files: Mapping[Path, bytes], signers: Sequence[Signer]) -> bytes | None:
    """Return a record that names these files as they are now, and the keys; None where it does already, or
    names no files beside the image. files: of its build. Raises ValueError for no record."""
    value = json.loads(record)
    trust = value.get("trust") or {}
    if "files" not in trust:
        return None
    rows = {row["name"]: row for row in trust["files"]}
    for path, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        rows[path.name] = {"name": path.name, "size": len(data), "sha256": digest}
    keys = dict.fromkeys([*trust.get("keys", ()), *(one.fingerprint for one in signers)])
    new = {**trust, "files": list(rows.values()), "keys": list(keys)}
    return json.dumps({**value, "trust": new}, indent=2).encode() + b"\n" if new != trust else None
