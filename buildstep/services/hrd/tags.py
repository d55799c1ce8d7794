"""Tags: `name:value` words, as questions and schemas have them."""

from __future__ import annotations

import re
from typing import NamedTuple

from buildstep.services.hrd.escapes import decode

_WORD = re.compile(r"\S+")
_TAG = re.compile(r"(\w+):('[^']*'(?=[\s,]|$)|[^\s]*)")


class Tag(NamedTuple):
    """One tag. at: its offset. value: its text; raw: before its escapes are read, as regular expressions have
    their own. alone: whether it is a word without a colon; its value is empty then."""

    at: int
    name: str
    value: str = ""
    raw: str = ""
    alone: bool = False


def tags_of(text: str, at: int = 0) -> list[Tag]:
    """Return the tags of a text: words that blanks part, `name:value` or a word alone.

    A value may be in single quotes, and has the escapes of HRD. at: what is added to their offsets. A comma
    after a tag is left out.
    """
    found = []
    position = 0
    while (word := _WORD.search(text, position)) is not None:
        match = _TAG.match(text, word.start())
        if match is None:
            position = word.end()
            if name := word[0].strip(","):
                found.append(Tag(at + word.start(), name, alone=True))
            continue
        position = match.end()
        value = match[2]
        quotes = len(value) > 1 and value[0] == value[-1] == "'"
        value = value[1:-1] if quotes else value.rstrip(",")
        found.append(Tag(at + match.start(), match[1], decode(value), value))
    return found
