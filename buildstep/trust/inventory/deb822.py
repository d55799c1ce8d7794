"""Paragraphs of fields, as dpkg and the copyright files of Debian have them (deb822(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FIELD = re.compile(r"^([A-Za-z][A-Za-z0-9-]*):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
_BETWEEN = re.compile(r"\n(?:[ \t]*\n)+")


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Yield the fields of each paragraph; a field that comes twice has its last value."""
    for paragraph in _BETWEEN.split(text):
        if fields := dict(_FIELD.findall(paragraph)):
            yield fields


def body(value: str) -> str:
    """Return the lines after the first one of a value: each without its space, a dot alone as empty."""
    rows = value.split("\n")[1:]
    return "\n".join("" if row.strip() == "." else row[1:].rstrip() for row in rows).strip("\n")
