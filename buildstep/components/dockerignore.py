"""Which files of a context a `.dockerignore` leaves out.

Source of the rules: the ".dockerignore files" section of Docker's reference on build contexts, and
github.com/moby/patternmatcher where it is silent: the last pattern that matches a path, or a directory above
it, decides. `FILE.dockerignore` beside a Dockerfile is for that one only, and wins over the context's.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

NAME: Final = ".dockerignore"
_ESCAPED: Final = frozenset(".+()|{}$^")


class _Pattern(NamedTuple):
    expression: re.Pattern[str]
    back: bool
    """Whether it takes paths back in: it began with `!`."""


class Ignore:
    """Patterns as a function: whether a path, relative to the context, stays out. faults: line and text of
    each pattern that is none."""

    def __init__(self, text: str) -> None:
        self.faults: list[tuple[int, str]] = []
        self._patterns: list[_Pattern] = []
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
            if line.startswith("#") or not (pattern := line.strip()):
                continue
            back = pattern.startswith("!")
            pattern = pattern[1:].strip() if back else pattern
            try:
                if not pattern:
                    raise ValueError
                pattern = posixpath.normpath(pattern).lstrip("/")
                self._patterns.append(_Pattern(re.compile(_expression(pattern), re.DOTALL), back))
            except (ValueError, re.error):
                self.faults.append((number, line.strip()))

    def __call__(self, path: str) -> bool:
        ignored = False
        paths = [path, *_above(path)]
        for expression, back in self._patterns:
            if back == ignored and any(expression.fullmatch(one) for one in paths):
                ignored = not back
        return ignored


def ignore_file(file: str, files: Collection[str]) -> str:
    """Return the ignore file that counts for a Dockerfile, empty where there is none; paths are relative to
    the context."""
    own = f"{file}{NAME}"
    return next((name for name in (own, NAME) if name in files), "")


def ignored_files(ignore: Ignore, files: Sequence[str], sent: Collection[str]) -> frozenset[str]:
    """Return the files that stay out. sent: those that a builder reads in any case."""
    return frozenset(name for name in files if name not in sent and ignore(name))


def _above(path: str) -> Iterator[str]:
    while (path := path.rpartition("/")[0]) != "":
        yield path


def _expression(pattern: str) -> str:
    """Return a pattern as a regular expression. Raises ValueError where a bracket has no end."""
    out, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if pattern.startswith("**", at - 1):
            at += 1
            at += pattern.startswith("/", at)
            out += ".*" if at == len(pattern) else "(.*/)?"
        elif char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            # The first character can be a bracket as little as the end: Go's filepath.Match.
            end = pattern.index("]", at)
            out += f"[{_set(pattern[at:end])}]"
            at = end + 1
        elif char == "\\":
            if at == len(pattern):
                raise ValueError(pattern)
            out += re.escape(pattern[at])
            at += 1
        else:
            out += f"\\{char}" if char in _ESCAPED else char
    return out


def _set(text: str) -> str:
    """Return what is between brackets so that nothing in it but a range and a first `^` has a meaning."""
    negated, text = text[:1] == "^", text.removeprefix("^")
    if not text:
        raise ValueError(text)
    return ("^" if negated else "") + re.sub(r"[\[&|~^\\]", lambda found: f"\\{found[0]}", text)


__all__ = ["NAME", "Ignore", "ignore_file", "ignored_files"]
