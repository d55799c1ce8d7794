"""The secrets that a build itself is given: what must not be in its image in any form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from buildstep.system import masking

_LEAST = 8
_MOST = 24
"""Words of one secret that are looked for, the longest first: a key has thirty lines."""

_NAMES = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|(?:API|ACCESS|PRIVATE)_?KEY|CREDENTIALS?)(?:$|_)",
    re.IGNORECASE,
)
_SHAPE = re.compile(r"(?!/|~|https?:)(?=.*[0-9])(?=.*[A-Za-z]).{12,4096}", re.DOTALL)
_IN_URL = re.compile(r"://[^\s/@:]*:([^\s/@]{4,})@")


def of_environment(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables that are called secrets, and the passwords in addresses, as of a proxy.

    A value that is a path, a number or a word says something else.
    """
    found = []
    for name, value in environ.items():
        found += _IN_URL.findall(value[:4096])
        if _NAMES.search(name) and _SHAPE.fullmatch(value):
            found.append(value)
    return tuple(dict.fromkeys(found))


def of_contents(contents: Iterable[bytes]) -> tuple[str, ...]:
    """Return the words of secrets: each whole, and what in its lines is called one."""
    found: dict[str, None] = {}
    for content in contents:
        words = sorted((it for it in masking.words(content) if len(it) >= _LEAST), key=len, reverse=True)
        found.update(dict.fromkeys(words[:_MOST]))
    return tuple(found)
