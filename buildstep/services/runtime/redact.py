"""Secrets in what is printed: each is replaced, in the forms in which programs tend to show it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"

_SHORTEST_LINE = 6
"""Characters of a line of a secret of several lines that is hidden by itself: a key's, and no bracket."""

_SHORTEST_CORE = 6
"""Characters of base64 that are told from other text."""

_SHORTEST_PART = 4
"""Characters of a secret that is looked for within values."""

_LONGEST_LINE = 1 << 16
"""Bytes of a line; a longer one is handed on in pieces."""


def forms(secret: str) -> set[str]:
    """Return the texts that show a secret: itself, its lines, as Python, JSON, a URL or a shell quote it, in
    hexadecimal, and in base64, also as a part of a longer text."""
    found = {secret, secret.strip(), repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    found |= {json.dumps(secret, ensure_ascii=False)[1:-1], secret.replace("'", "'\"'\"'")}
    found |= {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    found |= {line.strip() for line in secret.split("\n") if len(line.strip()) >= _SHORTEST_LINE}
    data = secret.encode("utf-8", "surrogateescape")
    found |= {data.hex(), data.hex().upper()}
    for before in range(3):
        # The characters of base64 that this secret alone makes, whatever is before and after it.
        encoded = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        first = -(-before * 8 // 6)
        last = (before + len(data)) * 8 // 6
        core = encoded[first:last]
        if len(core) >= _SHORTEST_CORE:
            found |= {core, core.replace("+", "-").replace("/", "_")}
    return {text for text in found if text.strip()}


class Redactor:
    """Hides some secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        secrets = list(secrets)
        texts = {text for secret in secrets for text in forms(secret)}
        self.longest = max((len(text.encode("utf-8", "surrogateescape")) for text in texts), default=0)
        # The longest first: a secret may be a part of another's form.
        ordered = sorted(texts, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._short = {secret for secret in secrets if len(secret) < _SHORTEST_PART}
        parts = [text for text in ordered if len(text) >= _SHORTEST_PART]
        self._part = re.compile("|".join(map(re.escape, parts))) if parts else None

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def found(self, value: Any) -> bool:
        """Return whether a secret is in a value of JSON: as a part of a text, or, if it is very short, as a
        whole one, as it would be a part of many that have nothing to do with it."""
        if isinstance(value, dict):
            return any(self.found(item) for pair in value.items() for item in pair)
        if isinstance(value, list):
            return any(map(self.found, value))
        text = str(value)
        return text in self._short or bool(self._part and self._part.search(text))


class Lines:
    """Makes lines without secrets of output that comes in pieces, cut anywhere."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._rest = b""

    def take(self, data: bytes) -> list[str]:
        """Take some output; return the lines that are complete now."""
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        lines = [self._clean(line) for line in whole.split(b"\n")] if newline else []
        if len(self._rest) > _LONGEST_LINE + self._redactor.longest:
            # A secret may have begun in the last bytes: they wait for what comes.
            text = self._clean(self._rest).encode("utf-8", "backslashreplace")
            at = len(text) - self._redactor.longest
            lines.append(text[:at].decode("utf-8", "backslashreplace"))
            self._rest = text[at:]
        return lines

    def rest(self) -> list[str]:
        """Return what is left at the end, if anything."""
        rest, self._rest = self._rest, b""
        return [self._clean(rest)] if rest else []

    def _clean(self, line: bytes) -> str:
        return self._redactor.text(line.rstrip(b"\r").decode("utf-8", "backslashreplace"))
