"""The order of Semantic Versioning 2.0.0, rule 11, for npm, Go and Rust.

A leading `v` is of no account, nor is what follows a `+`. Missing parts are 0, as OSV has them in its events
("0", "1.2").
"""

from __future__ import annotations

import re

_VERSION = re.compile(
    r"v?(?P<numbers>[0-9]{1,40}(?:\.[0-9]{1,40}){0,3})(?:-(?P<stage>[0-9A-Za-z.-]{1,200}))?(?:\+[0-9A-Za-z.-]{0,200})?"
)

_Stage = tuple[tuple[int, int, str], ...]
_Key = tuple[tuple[int, ...], int, _Stage]


def compare(left: str, right: str) -> int:
    """Compare two versions. Raises ValueError for what is none."""
    mine, its = _key(left), _key(right)
    return (mine > its) - (mine < its)


def _key(version: str) -> _Key:
    match = _VERSION.fullmatch(version.strip())
    if not match:
        raise ValueError(f"{version[:60]!r} is no semantic version")
    numbers = [int(part) for part in match["numbers"].split(".")]
    numbers += [0] * (4 - len(numbers))
    stage = match["stage"]
    if stage is None:
        return tuple(numbers), 1, ()
    # Of identifiers, numbers come first and in their order; then words, in that of ASCII. A longer list is
    # later.
    parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in stage.split("."))
    return tuple(numbers), 0, parts
