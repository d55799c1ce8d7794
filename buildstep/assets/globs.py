"""Patterns of host names, as Go's path.Match has them: the grammar, and an expression that matches so.

    *        any characters but /, also none
    ?        one character, but not /
    [a-z]    one of these; [^a-z] one that is none of these
    \\c       the character c, whatever it is

A pattern matches a whole name; capitals count. https://pkg.go.dev/path#Match
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

ANY: Final = "*"
ONE: Final = "?"


class Class(NamedTuple):
    """A class of characters. ranges: first and last of each; one whose first is after its last is empty."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def has(self, char: str) -> bool:
        """Tell whether it matches a character."""
        return any(low <= char <= high for low, high in self.ranges) != self.negated


class Literal(NamedTuple):
    """Text that stands for itself."""

    text: str


Part = Literal | Class | str
"""Of a pattern: text, a class, ANY or ONE."""


class Malformed(ValueError):
    """A text that is no pattern, and why."""


def parse(pattern: str) -> tuple[Part, ...]:
    """Return the parts of a pattern. Raises Malformed where Go has ErrBadPattern."""
    parts: list[Part] = []
    text, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            if at + 1 == len(pattern):
                raise Malformed("it ends with a backslash")
            text += pattern[at + 1]
            at += 2
        elif char in "*?[":
            if text:
                parts.append(Literal(text))
                text = ""
            if char == "[":
                found, at = _class(pattern, at + 1)
                parts.append(found)
            else:
                parts.append(char)
                at += 1
        else:
            text += char
            at += 1
    if text:
        parts.append(Literal(text))
    return tuple(parts)


def _class(pattern: str, at: int) -> tuple[Class, int]:
    """Return the class whose `[` is before a place, and the place behind it."""
    negated = pattern[at : at + 1] == "^"
    at += negated
    ranges: list[tuple[str, str]] = []
    while pattern[at : at + 1] != "]" or not ranges:
        low, at = _member(pattern, at)
        high = low
        if pattern[at] == "-":
            high, at = _member(pattern, at + 1)
        ranges.append((low, high))
    return Class(tuple(ranges), negated), at + 1


def _member(pattern: str, at: int) -> tuple[str, int]:
    """Return a character of a class, and the place behind it, where there is something."""
    char = pattern[at : at + 1]
    if char == "]":
        raise Malformed("a class of characters is empty or has half a range")
    if char == "-":
        raise Malformed("a class of characters has a - without a first character")
    if char == "\\":
        at += 1
        char = pattern[at : at + 1]
    if not char or at + 1 >= len(pattern):
        raise Malformed("a class of characters is not closed")
    return char, at + 1


def regex(parts: Iterable[Part]) -> re.Pattern[str]:
    """Return the expression that matches as Go does.

    What is between two stars is taken where it first fits and never tried elsewhere, as Go has it: so the
    time grows with the length of the name only, whatever the number of stars.
    """
    chunks = [""]
    for part in parts:
        if part == ANY:
            chunks.append("")
        else:
            chunks[-1] += _expression(part)
    first, *rest = chunks
    if not rest:
        return re.compile(first, re.DOTALL)
    middle = "".join(rf"(?>[^/]*?{chunk})" for chunk in rest[:-1] if chunk)
    return re.compile(rf"{first}{middle}[^/]*{rest[-1]}", re.DOTALL)


def _expression(part: Part) -> str:
    if isinstance(part, Literal):
        return re.escape(part.text)
    if isinstance(part, Class):
        ranges = "".join(f"{re.escape(low)}-{re.escape(high)}" for low, high in part.ranges if low <= high)
        if not ranges:
            return "." if part.negated else "(?!)"
        return f"[{'^' if part.negated else ''}{ranges}]"
    return "[^/]"
