"""Texts that no log may show: the forms in which a secret can turn up, and what takes them out."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

LEAST = 4
"""Characters that a text must have to be looked for: shorter ones are in every log."""

_LEAST_WORD = 8

_NAMED = re.compile(
    r"(?:password|passwd|passphrase|_auth|_authtoken|_password|token|secret|api_?key|access_?key)"
    r"[\"']?(?:[ \t]*[=:][ \t]*|[ \t]+)[\"']?([^\s\"',;]+)",
    re.IGNORECASE,
)
"""A word that a netrc, an npmrc, a TOML or a JSON file calls a secret."""

_IN_URL = re.compile(r"://([^\s/@\"']+)@")


def words(data: bytes) -> tuple[str, ...]:
    """Return what is secret in a file: all of it, each of its lines, and in these what is called a password,
    a token or the like, or is in front of the host in a URL."""
    text = data.decode("utf-8", "surrogateescape").strip()
    found = [text, *(line.strip() for line in text.splitlines())]
    found = [row for row in found if len(row) >= _LEAST_WORD or row == text]
    named = _NAMED.findall(text)
    for pair in _IN_URL.findall(text):
        login, colon, password = pair.partition(":")
        named += [password] if colon else [login]
    return tuple(dict.fromkeys(row for row in [*found, *named] if len(row) >= LEAST))


def forms(word: str) -> frozenset[str]:
    """Return the texts that tell a word: itself, quoted for a URL, for JSON, and inside of what is encoded in
    base64 or in hexadecimal digits, wherever it begins there."""
    raw = word.encode("utf-8", "surrogateescape")
    found = {word, quote(raw, safe=""), quote(raw), quote(raw, safe="").lower(), raw.hex(), raw.hex().upper()}
    found.add(json.dumps(word)[1:-1])
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            # The characters at both ends also hold bits of what is beside the word.
            text = encode(b"\0" * before + raw).decode().rstrip("=")
            begin = (0, 2, 3)[before]
            end = len(text) - (1 if (before + len(raw)) % 3 else 0)
            found.add(text[begin:end])
    return frozenset(form for form in found if len(form) >= LEAST)


def pattern(secrets: Iterable[str]) -> re.Pattern[str]:
    """Return an expression that finds every form of these words; the longest that fits."""
    found = {form for word in secrets for form in forms(word)}
    return re.compile("|".join(re.escape(form) for form in sorted(found, key=lambda it: (-len(it), it))))


def finder(secrets: Iterable[str]) -> re.Pattern[bytes]:
    """Return the same for bytes, such as a file's content."""
    return re.compile(pattern(secrets).pattern.encode("utf-8", "surrogateescape"), re.DOTALL)
