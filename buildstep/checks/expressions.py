"""Whether a text has what is expected of it, and nothing that is excluded: by regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_SHOWN = 400
"""Characters of a text that are shown with what it lacks."""


def problems(text: str, what: str, *, expected: Sequence[str], excluded: Sequence[str]) -> Iterator[str]:
    """Yield why a text will not do. what: what it is, for messages."""
    for word in expected:
        if not re.search(word, text, re.MULTILINE):
            yield f"{what} has no match of {word!r}: {shown(text)}"
    for word in excluded:
        found = re.search(word, text, re.MULTILINE)
        if found:
            yield f"{what} has a match of {word!r}, which is excluded: {shown(found[0])}"


def shown(text: str) -> str:
    """Return a text for a message, on one line."""
    short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return repr(short) if short else "it is empty"
