"""Escapes and quotes of HRD: how a text is spelled, and read again."""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\\([SQKDNn]|E[SQKDNnEA])")
_MEANS = {"S": " ", "Q": '"', "K": ",", "D": ":", "N": "\n", "n": "\n", "EA": "'"}
_NEEDS_ESCAPE = re.compile(r"\\(?=[SQKDNnE])|['\n]")
_NEEDS_BARE = re.compile(r"\\(?=[SQKDNnE])")
_SPELLED = {"\\": "\\E", "'": "\\EA", "\n": "\\N"}
_BARE = re.compile(r"[\w.+\-/$()%;*~^!?<>|&{}=]+")


def decode(text: str) -> str:
    r"""Return a text with escapes read: \S blank, \Q double quote, \K comma, \D colon, \N or \n newline.

    Ours: \EA is an apostrophe, and \E before one of SQKDNnE a backslash: \ES is the two characters \S.
    """
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: _MEANS.get(match[1]) or "\\" + match[1][1:], text)


def encode(text: str) -> str:
    """Return a text as it stands between single quotes: `decode` gives it back."""
    return _NEEDS_ESCAPE.sub(lambda match: _SPELLED[match[0]], text)


def encode_bare(text: str) -> str:
    """Return a text as it stands without quotes: `decode` gives it back."""
    return _NEEDS_BARE.sub(r"\\E", text)


def spell(text: str, *, force: bool = False) -> str:
    """Return a text as a scalar, an item or a key of a dict: bare if nothing in it has a meaning."""
    if not force and _BARE.fullmatch(text):
        return text
    return f"'{encode(text)}'"
