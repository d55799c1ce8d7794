"""rsync's exclude patterns, as far as we know what they mean, so that we need not ask it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence


class Exclude:
    """Patterns as a function: whether a path (relative, and whether it is a directory) stays out."""

    def __init__(self, patterns: Sequence[str], rules: Sequence[_Rule]) -> None:
        self.patterns = tuple(patterns)
        self._rules = tuple(rules)

    def __call__(self, path: bytes, directory: bool) -> bool:
        name = path.rpartition(b"/")[2]
        return any(
            (directory or not only_dirs) and rule.fullmatch(b"/" + path if whole else name) is not None
            for rule, whole, only_dirs in self._rules
        )


_Rule = tuple[re.Pattern[bytes], bool, bool]
"""An expression, whether it is of the whole path, and whether only directories count."""


def excluder(patterns: Sequence[str]) -> Exclude | None:
    """rsync's exclude patterns as a function; None when one uses more of their language than we know.

    Known: a leading slash (anchored at the top), a trailing slash (directories only), `*`, `**`, `?` and
    bracket sets. A pattern with a slash or `**` inside is matched against the end of the path, any other
    against the last name. Source of the rules: rsync(1), "pattern matching rules".
    """
    rules: list[_Rule] = []
    for pattern in patterns:
        only_dirs = pattern.endswith("/")
        body = pattern.removesuffix("/")
        anchored = body.startswith("/")
        inner = body[1:] if anchored else body
        if not inner or _UNKNOWN.search(pattern) or inner.startswith("/") or inner.endswith("/"):
            return None
        whole = anchored or "/" in body or "**" in body
        text = _translate(inner)
        if text is None:
            return None
        if not whole:
            expression = text
        elif anchored:
            expression = b"/" + text
        elif inner.startswith("**"):
            # rsync puts a slash before the path for these: `**/x` is at the top as well.
            expression = b"/?" + text
        else:
            expression = b"(?:.*/)" + text
        try:
            rules.append((re.compile(expression, re.DOTALL), whole, only_dirs))
        except re.error:
            return None

    return Exclude(patterns, rules)


_UNKNOWN = re.compile(r"^[+-] |^!|\*\*\*|\\|\[:|//")
"""Signs, `***`, escapes, classes of characters, and what rsync itself reads in more than one way."""


def _translate(body: str) -> bytes | None:
    out = b""
    at = 0
    while at < len(body):
        char = body[at]
        if body.startswith("**", at):
            out += b".*"
            at += 2
            continue
        if char == "*":
            out += b"[^/]*"
        elif char == "?":
            out += b"[^/]"
        elif char == "[":
            end = body.find("]", at + 2)
            if end < 0:
                return None
            members = _members(body[at + 1 : end])
            if members is None:
                return None
            out += members
            at = end
        else:
            out += re.escape(os.fsencode(char))
        at += 1
    return out


def _members(inner: str) -> bytes | None:
    """A bracket set; it never matches a slash. None for one that is not plain."""
    negated = inner[0] in "!^"
    body = inner[1:] if negated else inner
    if not re.fullmatch(r"(?:[A-Za-z0-9_.,+~@=]-[A-Za-z0-9_.,+~@=]|[A-Za-z0-9_.,+~@=])+", body):
        return None
    return b"(?!/)[" + (b"^" if negated else b"") + body.encode() + b"]"
