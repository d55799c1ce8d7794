"""What is in files and should not be: places of the CI host, which are not in the image, and secrets."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import starmap

from buildstep.checks.interface import Found, Subject

RULE = "host-path"
SECRET = "secret"  # noqa: S105 - the name of a rule
RULES = (RULE, SECRET)
"""What the rules are called."""

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


def clean_of(subject: Subject) -> Callable[[bytes], bool]:
    """Return what tells of a whole content that none of what is looked for is in it; quickly."""
    no_place = clean(places_of(subject.host_paths))
    if subject.secrets is None:
        return no_place
    no_secret = subject.secrets.search.clean
    return lambda data: no_place(data) and no_secret(data)


def host_path(subject: Subject) -> Iterator[Found]:
    """Yield text files of this build's own with a path of the CI host, each with the first line of one."""
    yield from _looked_through(subject)[RULE]


def secret(subject: Subject) -> Iterator[Found]:
    """Yield files of this build's own with a secret in them, one for each, and exceptions that are over."""
    yield from _looked_through(subject)[SECRET]


def _looked_through(subject: Subject) -> Mapping[str, list[Found]]:
    """Look through the files once, for all rules of texts; return what each of these found."""
    if subject.told:
        return subject.told
    told = subject.told
    told[RULE], told[SECRET] = [], []
    places = places_of(subject.host_paths)
    if not places and subject.secrets is None:
        return told
    from buildstep.trust.secrets.named_files import is_named

    if subject.secrets is not None and subject.settings:
        told[SECRET] += starmap(Found, subject.secrets.in_settings(subject.settings))
    if subject.secrets is not None:
        named_ones = ((path, entry) for path, entry in subject.files() if subject.own(path))
        told[SECRET] += starmap(Found, subject.secrets.in_names(named_ones))
    is_clean, no_place = clean_of(subject), clean(places)
    longest_first = sorted(places, key=len, reverse=True)
    pattern = re.compile(rb"(?<![\w.-])(?:" + b"|".join(map(re.escape, longest_first)) + rb")(?![\w.-])")
    for path, entry in subject.files():
        if entry.kind != "f" or entry.first or not entry.size or not subject.own(path):
            continue
        named = subject.secrets is not None and is_named(path)
        digest = bytes.fromhex(entry.sha256)
        if digest and digest in subject.seen and not named:
            subject.clean.add(digest)
            continue
        if entry.size > _LARGEST:
            if subject.secrets is not None:
                told[SECRET] += starmap(Found, subject.secrets.in_large(path, entry, subject.open))
            continue
        data = subject.read(entry, _LARGEST)
        if is_clean(data) and not named:  # far quicker than the patterns
            subject.clean.add(digest or hashlib.sha256(data).digest())
            continue
        if places and not no_place(data) and (found := _found(subject, data, pattern)):
            told[RULE].append(Found(path, found))
        if subject.secrets is not None:
            told[SECRET] += starmap(Found, subject.secrets.in_file(path, data))
    return told


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
