"""The order of Alpine's versions: digit{.digit}...{letter}{_suffix{number}}...{~hash}{-rN}.

Two versions are compared part by part. Where one has nothing more, the other is later, unless a suffix of
a stage before the release follows. Numbers after the first are compared as text where one begins with 0.
A digit after the letter (3.3.3p1), which apk 2 takes and apk 3 does not, is a number like others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_PART = re.compile(
    r"\.(?P<digit>[0-9]+)|(?P<letter>[a-z])(?P<after>[0-9]*)|_(?P<suffix>[a-z]+)(?P<number>[0-9]*)"
    r"|~(?P<hash>[0-9a-f]+)|-r(?P<revision>[0-9]+)"
)
_SUFFIXES = {"alpha": 1, "beta": 2, "pre": 3, "rc": 4, "cvs": 6, "svn": 7, "git": 8, "hg": 9, "p": 10}
_RELEASE = 5
"""Suffixes before it are of stages before the release."""

_FIRST, _DIGIT, _LETTER, _AFTER, _SUFFIX, _NUMBER, _HASH, _REVISION, _END = range(9)
"""What a part is, in the order in which they may follow each other."""

_Part = tuple[int, str]


def compare(left: str, right: str) -> int:
    """Compare two versions. Raises ValueError for what is none."""
    mine, its = list(_parts(left)), list(_parts(right))
    for one, other in zip(mine, its, strict=False):
        if one[0] != other[0]:
            return _of_kinds(one, other)
        if order := _of_values(*one, other[1]):
            return order
    return 0


def _of_kinds(one: _Part, other: _Part) -> int:
    """Compare where the versions go on in different ways."""
    if one[0] == _SUFFIX and _SUFFIXES[one[1]] < _RELEASE:
        return -1
    if other[0] == _SUFFIX and _SUFFIXES[other[1]] < _RELEASE:
        return 1
    return -1 if one[0] > other[0] else 1


def _of_values(kind: int, one: str, other: str) -> int:
    """Compare two parts of one kind."""
    if kind == _SUFFIX:
        return _SUFFIXES[one] - _SUFFIXES[other]
    if kind in (_FIRST, _AFTER, _NUMBER, _REVISION) or (kind == _DIGIT and "0" not in (one[0], other[0])):
        return int(one or 0) - int(other or 0)
    return (one > other) - (one < other)


def _parts(version: str) -> Iterator[_Part]:
    """Yield the parts of a version."""
    begin = re.match("[0-9]+", version)
    if begin is None or len(version) > 500:
        raise ValueError(f"{version[:60]!r} is no version of Alpine")
    yield _FIRST, begin[0]
    at, last = begin.end(), _FIRST
    while at < len(version):
        match = _PART.match(version, at)
        found = list(_of_match(match)) if match else []
        # Digits may be repeated, and suffixes with their numbers; all else comes once and in its order.
        first = found[0][0] if found else _END
        if not found or not (
            first > last or first == last == _DIGIT or (first == _SUFFIX and last <= _NUMBER)
        ):
            raise ValueError(f"{version[:60]!r} is no version of Alpine")
        yield from found
        assert match is not None
        at, last = match.end(), found[-1][0]
    yield _END, ""


def _of_match(match: re.Match[str]) -> Iterator[_Part]:
    if match["digit"]:
        yield _DIGIT, match["digit"]
    elif match["letter"]:
        yield _LETTER, match["letter"]
        if match["after"]:
            yield _AFTER, match["after"]
    elif match["suffix"]:
        if match["suffix"] in _SUFFIXES:
            yield _SUFFIX, match["suffix"]
            if match["number"]:
                yield _NUMBER, match["number"]
    elif match["hash"]:
        yield _HASH, match["hash"]
    else:
        yield _REVISION, match["revision"]
