"""Crates of a program in Rust that was built with cargo-auditable.

Section .dep-v0: JSON, compressed by zlib (https://github.com/rust-secure-code/cargo-auditable/blob/master/PARSING.md):
`packages`, each with name, version, source, and the numbers of those it depends on.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

from buildstep.trust.inventory.interface import plain
from buildstep.trust.inventory.model import Component, Origin
from buildstep.trust.purl import purl

SECTION = b".dep-v0"

_LIMIT = 16 << 20
_MOST_CRATES = 20_000
_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")


def components(section: bytes, path: bytes, origin: Origin) -> list[Component]:
    """Return the crates that are in a program; those that only built it are left out."""
    try:
        said = json.loads(zlib.decompressobj().decompress(section, _LIMIT))
        rows = said["packages"][:_MOST_CRATES]
        refs = {at: _ref(row) for at, row in enumerate(rows) if _is_in_it(row)}
    except (zlib.error, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return []
    found = []
    for at, ref in refs.items():
        row, needs = rows[at], rows[at].get("dependencies")
        wanted = (
            {refs[it] for it in needs if isinstance(it, int) and it in refs}
            if isinstance(needs, list)
            else set()
        )
        source = row.get("source")
        found.append(
            Component(
                kind="cargo",
                name=row["name"],
                version=plain(row["version"], 200),
                purl=ref,
                depends=tuple(sorted(wanted - {ref})),
                location=path,
                origin=origin,
                properties={"cargo:source": plain(source, 200)} if isinstance(source, str) else {},
            )
        )
    return found


def _is_in_it(row: dict[str, Any]) -> bool:
    named = isinstance(row.get("name"), str) and _NAME.fullmatch(row["name"])
    return bool(named) and isinstance(row.get("version"), str) and row.get("kind", "runtime") == "runtime"


def _ref(row: dict[str, Any]) -> str:
    return purl("cargo", "", row["name"], plain(row["version"], 200))
