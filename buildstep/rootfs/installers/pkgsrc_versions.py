"""The order of pkgsrc's versions, as pkg_info(1) tells it under "package wildcards"."""

from __future__ import annotations

import re
from itertools import zip_longest

# A number; alpha, beta, release candidate; a point and its like; a letter, which is a point and its number.
_PART = re.compile(
    r"(?P<number>\d+)|nb(?P<revision>\d+)|(?P<stage>alpha|beta|pre|rc)|pl|[._]|(?P<letter>[a-z])"
)
_STAGES = {"alpha": -3, "beta": -2, "pre": -1, "rc": -1}


def newer(version: str, than: str) -> bool:
    """Whether a version comes after another; any does after "", which is none."""
    if not than:
        return True
    (left, revision), (right, other) = _parts(version), _parts(than)
    for mine, its in zip_longest(left, right, fillvalue=0):
        if mine != its:
            return mine > its
    return revision > other


def _parts(version: str) -> tuple[list[int], int]:
    """The components of a version, and pkgsrc's own revision, its nb."""
    parts: list[int] = []
    revision = 0
    for match in _PART.finditer(version.lower()):
        if match["number"]:
            parts.append(int(match["number"]))
        elif match["revision"]:
            revision = int(match["revision"])
        elif match["letter"]:
            parts += [0, ord(match["letter"]) - ord("a") + 1]
        else:
            parts.append(_STAGES.get(match["stage"] or "", 0))
    return parts, revision
