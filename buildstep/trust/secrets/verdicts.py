"""What tells a secret from something that only has its form: checksums, and how random its letters are."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zlib
from collections import Counter

_BASE62 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHECKSUM = 6
_LEAST_KEY = 64
"""Characters of base64 that a private key has at least: one of Ed25519 in PKCS #8."""

# Not the plus, with which programs join lines: it is a letter of base64.
_SPACE = re.compile(rb"\\[rn]|[\s\"',>|]")
_PLACEHOLDER = re.compile(
    rb"(?:pass|passwd|password|passphrase|pwd|pw|user|username|name|secret|token|key|auth|login|foo|bar|baz"
    rb"|test|guest|admin|root|anonymous|change_?me|example|sample|dummy|your|my|some|the|a|an|x+|y+|z+|\*+|\.+|_+|-+|[0-9])"
    rb"(?:[_.-]?(?:pass|passwd|password|pwd|here|word|token|secret|key|user|name|[0-9]{1,3}))*",
    re.IGNORECASE,
)
_VARIABLE = re.compile(rb"[$%{}<>()\[\]]|^[A-Z][A-Z0-9_]+$|^\*|%[sd]")


def not_example(value: bytes) -> bool:
    """Say whether a value is none of those in manuals."""
    return b"EXAMPLE" not in value.upper() and len(set(value)) > 6


def is_aws_key(value: bytes) -> bool:
    """Say whether an access key has the digits of base 32, as all of AWS's have."""
    return not_example(value) and not set(value[4:]) & set(b"0189")


def entropy(value: bytes) -> float:
    """Return the bits of each character, by how often each occurs."""
    size = len(value)
    return -sum(count / size * math.log2(count / size) for count in Counter(value).values()) if size else 0.0


def random_looking(value: bytes) -> bool:
    """Say whether a long value has letters as chance has them, and is no example."""
    return not_example(value) and entropy(value) > 3.5 and any(48 <= byte < 58 for byte in value)


def has_checksum(token: bytes) -> bool:
    """Say whether a token ends in the checksum of what is before, as those of GitHub and npm do: the CRC-32
    of what is after the underline, with the digits and letters as the digits of base 62."""
    body = token.partition(b"_")[2]
    value, text = zlib.crc32(body[:-_CHECKSUM]), b""
    for _ in range(_CHECKSUM):
        value, digit = divmod(value, 62)
        text = _BASE62[digit : digit + 1] + text
    return body[-_CHECKSUM:] == text


def is_jwt(token: bytes) -> bool:
    """Say whether the first part of a token is a header that names how it was signed."""
    head = token.partition(b".")[0]
    try:
        said = json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return False
    return isinstance(said, dict) and str(said.get("alg", "none")).lower() != "none"


def is_key_body(value: bytes) -> bool:
    """Say whether what follows the first line of a key is one: what writes keys has such lines too."""
    lines = re.sub(rb"[A-Za-z-]+: [^\n\\]{1,200}(?:\\r|\\n|\s)", b"", value)
    body = _SPACE.sub(b"", lines)
    return len(body) >= _LEAST_KEY and entropy(body[:400]) > 3.0


def is_password(value: bytes) -> bool:
    """Say whether a password in an address is one, and not a word that stands for it, or a variable."""
    if _VARIABLE.search(value) or _PLACEHOLDER.fullmatch(value):
        return False
    return len(set(value)) > 3
