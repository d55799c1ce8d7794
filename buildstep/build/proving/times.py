"""Whether what differs between two texts, or two files of bytes, is the time of their builds."""

from __future__ import annotations

import calendar
import re
import struct
import time
from collections.abc import Iterator

from buildstep.build.proving.world import World

TOKEN = re.compile(r"[A-Za-z]+|\d+|[^A-Za-z\d]")
_NAMES = frozenset(
    {name[:length].lower() for name in (*calendar.day_name, *calendar.month_name) for length in (3, 99)}
    | {"am", "pm", "utc", "gmt", "prv", "t", "z"}
) - {""}
_DAY = 86400
_CLOCK = re.compile(r"\d\d?:\d\d(:\d\d)?")
_STRONG_DIGITS = 4
"""Digits that a number needs to be a year, and no number of anything."""


def is_time(pairs: list[tuple[str, str]], texts: tuple[str, str], worlds: tuple[World, World]) -> bool:
    """Return whether pairs of words that differ are parts of times, each of its own build.

    pairs: by place, one of the first text and one of the second; texts: all that they are from.
    """
    strong = False
    for word, other in pairs:
        if word.lower() in _NAMES and other.lower() in _NAMES:
            strong = strong or len(word) > 1
            continue
        kinds = [_kind(text, world) for text, world in zip((word, other), worlds, strict=True)]
        if not all(kinds):
            return False
        strong = strong or "strong" in kinds
    return bool(pairs) and (strong or all(_CLOCK.search(text) for text in texts))


def _kind(word: str, world: World) -> str:
    """Say how surely a number is part of a time of a build: `strong`, `weak`, or not at all."""
    if not word.isdigit():
        return ""
    if any(word == text for text in _dates(world)):
        return "strong" if len(word) >= _STRONG_DIGITS else "weak"
    number = int(word)
    for digits in (10, 13, 16, 19):
        if len(word) == digits and world.has_time(number / 10 ** (digits - 10)):
            return "strong"
    if len(word) in (12, 14) and re.match("20[0-9]{2}", word):
        return "strong" if word[:8] in set(_dates(world)) else ""
    if len(word) == 6 and number < 240000:
        return "weak"  # hours, minutes and seconds together
    if len(word) <= 2 and number < 61:
        return "weak"
    return "weak" if len(word) in (3, 6, 9) and len(word) > 2 and number < 10**9 and _fraction(word) else ""


def _fraction(word: str) -> bool:
    """Whether a number can be a part of a second."""
    return len(word) in (3, 6, 9)


def _dates(world: World) -> Iterator[str]:
    """Yield the numbers that name the days of a build, a day before and after it, for time zones."""
    for begin, end in world.times:
        day = begin - _DAY
        while day <= end + _DAY:
            moment = time.gmtime(day)
            for form in ("%Y%m%d", "%Y", "%m", "%d", "%y", "%j", "%Y%j", "%y%m%d", "%V", "%U"):
                text = time.strftime(form, moment)
                yield text
                yield text.lstrip("0") or "0"
            yield str(int(day // _DAY))
            day += _DAY


def is_time_in_bytes(first: bytes, second: bytes, worlds: tuple[World, World]) -> bool:
    """Return whether two files of one length differ in nothing but numbers that are times of their builds."""
    if len(first) != len(second) or len(first) > 1 << 20:
        return False
    at, places = 0, [n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    if not places or len(places) > 4096:
        return False
    while at < len(places):
        covered = _number_at(first, second, places[at], worlds)
        if not covered:
            return False
        while at < len(places) and places[at] < covered:
            at += 1
    return True


def _number_at(first: bytes, second: bytes, place: int, worlds: tuple[World, World]) -> int:
    """Return where a number ends that has a place in it and is a time of each build; 0 for none."""
    for form, size, scale in (("<I", 4, 1), (">I", 4, 1), ("<Q", 8, 1), (">Q", 8, 1), (">Q", 8, 1000)):
        for begin in range(max(0, place - size + 1), place + 1):
            if begin + size > len(first):
                continue
            values = [struct.unpack_from(form, data, begin)[0] / scale for data in (first, second)]
            if all(world.has_time(value) for value, world in zip(values, worlds, strict=True)):
                return begin + size
    return 0
