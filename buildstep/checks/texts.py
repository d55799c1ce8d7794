"""Text files that name places of the CI host, which are not in the image."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator

from buildstep.checks.interface import Found, Subject

_LARGEST = 1 << 20
"""Bytes of a file that is searched: settings and scripts have no megabytes."""

_HEAD = 8192
"""Bytes in which a file that is no text has a NUL, as grep(1) and git(1) tell."""


def host_path(subject: Subject) -> Iterator[Found]:
    """Yield text files of this build's own with a path of the CI host, each with the first line of one."""
    places = {os.fsencode(place) for place in subject.host_paths if place.count("/") > 1}
    if not places:
        return
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
        if not any(place in data for place in places):  # far quicker than the pattern
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
