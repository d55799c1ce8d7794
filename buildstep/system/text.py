"""Text for people: sizes, paths, differences of JSON documents."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

HALF = re.compile("[\ud800-\udfff]")
"""Half of a character, which JSON can escape, and no UTF-8 can have."""


def json_halves(text: str) -> str:
    """Return JSON text that has UTF-8: halves of characters are escaped in it."""
    return HALF.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def shown(path: bytes) -> str:
    """A path in a tree for a message."""
    return path.decode(errors="backslashreplace") or "/"


_LONG = 200
"""Characters of a path that a message has room for."""


def shown_path(path: bytes) -> str:
    """A path of any length for a message, on one line: of a long one the beginning and the end."""
    text = printable(shown(path))
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]}...{text[-_LONG // 2 :]}"


class Difference(NamedTuple):
    """One thing that differs between two JSON documents, and as text a short sentence about it.

    name: the path of its keys, with dots. old, new: the values, of a list the item; None where there is none.
    """

    name: str
    change: Literal["added", "removed", "changed", "reordered"]
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        match self.change:
            case "added":
                return f"{self.name}: {_shown(self.new)} added"
            case "removed":
                return f"{self.name}: {_shown(self.old)} removed"
            case "reordered":
                return f"{self.name}: order changed"
            case "changed":
                return f"{self.name}: {_shown(self.old)} -> {_shown(self.new)}"


SHOWN = 2000
"""Characters of a tool's line that a console or a page has room for."""


def shown_line(text: str, part: int = 0, size: int = 0) -> str | None:
    """Return what a person is shown of a line of a tool, or of a part of one (see `events.Part`): the first
    part, and how long the line is once it has ended. None for what is only in the event log."""
    if part > 1:
        return f"[{size_text(size)} in that line; the event log has more of it]" if size else None
    if len(text) <= SHOWN:
        return text
    more = "..." if part else f"{len(text) - SHOWN:,} more characters in this line"
    return f"{text[:SHOWN]} [{more}]"


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between the inputs of two layers, one short sentence each."""
    return [str(found) for found in differences(old, new)]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, below: str = "") -> list[Difference]:
    """Return what differs between two JSON objects. below: the path of both, with a dot behind it."""
    found = []
    for key in sorted({*old, *new}):
        name = f"{below}{key}"
        if key not in old:
            found.append(Difference(name, "added", new=new[key]))
            continue
        if key not in new:
            found.append(Difference(name, "removed", old=old[key]))
            continue
        was, now = old[key], new[key]
        if _text(was) == _text(now):
            continue
        if isinstance(was, list | tuple) and isinstance(now, list | tuple):
            before, after = Counter(map(_text, was)), Counter(map(_text, now))
            found += [Difference(name, "added", new=json.loads(item)) for item in (after - before).elements()]
            found += [
                Difference(name, "removed", old=json.loads(item)) for item in (before - after).elements()
            ]
            if before == after:
                found.append(Difference(name, "reordered", was, now))
        elif isinstance(was, Mapping) and isinstance(now, Mapping):
            found += differences(was, now, below=f"{name}.")
        else:
            found.append(Difference(name, "changed", was, now))
    return found


def _shown(value: object) -> str:
    """A value in a sentence: of a digest the beginning is enough to see that it is another."""
    text = str(value)
    is_digest = isinstance(value, str) and len(text) in (40, 64) and not set(text) - set("0123456789abcdef")
    return text[:12] if is_digest else text


def _text(value: object) -> str:
    """A value as the key sees it: 1 and true are not the same."""
    return json.dumps(value, sort_keys=True)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: 1 file, 2 files, 1,200 files."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size_text(count: float) -> str:
    """A number of bytes for a person."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def printable(text: str) -> str:
    """Return text without control characters: a tool's output must not drive the reader's terminal."""
    if text.isprintable():  # nearly every line is, and this takes a tenth of the time
        return text
    return "".join(c if c.isprintable() else "?" for c in text.replace("\t", "    "))
