"""Whether the bills of materials beside an artifact are those that its statements have.

A signature vouches for the statement; people and scanners read the file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from buildstep.errors import SigningError
from buildstep.trust import dsse, sidecars
from buildstep.trust.statements import kind_of
from buildstep.trust.statements.statement import Statement, parse

LARGEST: Final = 256 << 20
_KINDS: Final[Mapping[str, str]] = {
    sidecars.SPDX: "spdx",
    sidecars.SPDX3: "spdx",
    sidecars.CYCLONEDX: "cyclonedx",
}
"""Files, by the kinds of the statements that have them."""


def altered(stem: Path, envelopes: Iterable[bytes]) -> str:
    """Return which file beside a stem is none of the bills that are stated, empty for none.

    envelopes: that are believed; some may be no statements. A file of a kind that none of them states is
    nobody's. Raises OSError.
    """
    found = {name: path for name in _KINDS if (path := sidecars.sidecar(stem, name)).is_file()}
    if not found:
        return ""
    stated: dict[str, list[Mapping[str, Any]]] = {}
    for data in envelopes:
        with contextlib.suppress(SigningError):
            row: Statement = parse(dsse.parse(data).payload)
            if (kind := kind_of(row.predicate_type)) is not None:
                stated.setdefault(kind.name, []).append(row.predicate)
    for name, path in found.items():
        known = stated.get(_KINDS[name])
        if known is not None and _content(path) not in known:
            return f"{path.name} is not the bill of materials that is stated: altered, or of another image"
    return ""


def _content(path: Path) -> Any:
    if path.stat().st_size > LARGEST:
        return None
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
