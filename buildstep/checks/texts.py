"""Text files that name places of the CI host, which are not in the image."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from buildstep.checks.interface import Found, Subject

RULE = "host-path"
"""What the rule is called."""

_LARGEST = 1 << 20
"""Bytes of a file that is searched: settings and scripts have no megabytes."""

_HEAD = 8192
"""Bytes in which a file that is no text has a NUL, as grep(1) and git(1) tell."""


def places_of(paths: Iterable[str]) -> list[bytes]:
    """Return those of some places of the CI host that are looked for in texts."""
    return sorted({os.fsencode(path) for path in paths if path.count("/") > 1})


def clean(places: Sequence[bytes]) -> Callable[[bytes], bool]:
    """Return what tells of a whole content that none of these places is in it; quickly."""
    # Where a place is, the directories above it are as well.
    places = [place for place in places if not any(place.startswith(other) for other in {*places} - {place})]

    def none_in(data: bytes) -> bool:
        for place in places:  # noqa: SIM110 - twice as quick, and it is asked of every file
            if place in data:
                return False
        return True

    return none_in


def host_path(subject: Subject) -> Iterator[Found]:
    """Yield text files of this build's own with a path of the CI host, each with the first line of one."""
    places = places_of(subject.host_paths)
    if not places:
        return
    is_clean = clean(places)
    longest_first = sorted(places, key=len, reverse=True)
    pattern = re.compile(rb"(?<![\w.-])(?:" + b"|".join(map(re.escape, longest_first)) + rb")(?![\w.-])")
    for path, entry in subject.files():
        if entry.kind != "f" or entry.first or not 0 < entry.size <= _LARGEST or not subject.own(path):
            continue
        digest = bytes.fromhex(entry.sha256)
        if digest and digest in subject.seen:
            subject.clean.add(digest)
            continue
        data = subject.read(entry, _LARGEST)
        if is_clean(data):  # far quicker than the pattern
            subject.clean.add(digest or hashlib.sha256(data).digest())
        elif found := _found(subject, data, pattern):
            yield Found(path, found)


def _found(subject: Subject, data: bytes, pattern: re.Pattern[bytes]) -> str:
    if b"\0" not in data[:_HEAD]:
        for match in pattern.finditer(data):
            # What names a place that the image has as well may mean that.
            if not _there(subject, match[0]):
                number = data.count(b"\n", 0, match.start()) + 1
                return f"has a path of the CI host in line {number}: {os.fsdecode(match[0])}"
    return ""


def _there(subject: Subject, place: bytes) -> bool:
    found = subject.tree.resolve(place)
    return found is not None and subject.tree.get(found) is not None
