"""Text files that name places of the CI host, which are not in the image."""

from __future__ import annotations

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
    places = [os.fsencode(place) for place in subject.host_paths]
    places = [
        place for place in dict.fromkeys(places) if place.count(b"/") > 1 and not _there(subject, place)
    ]
    if not places:
        return
    longest_first = sorted(places, key=len, reverse=True)
    pattern = re.compile(rb"(?<![\w.-])(?:" + b"|".join(map(re.escape, longest_first)) + rb")(?![\w.-])")
    for path, entry in subject.files():
        if entry.kind != "f" or entry.first or not 0 < entry.size <= _LARGEST or not subject.own(path):
            continue
        with subject.open(entry) as stream:
            data = stream.read(_LARGEST)
        match = pattern.search(data)
        if match is None or b"\0" in data[:_HEAD]:
            continue
        number = data.count(b"\n", 0, match.start()) + 1
        yield Found(path, f"has a path of the CI host in line {number}: {os.fsdecode(match[0])}")


def _there(subject: Subject, place: bytes) -> bool:
    """Whether the image has something at a place of the CI host: what names it may well mean that."""
    found = subject.tree.resolve(place)
    return found is not None and subject.tree.get(found) is not None
