"""Words of a Dockerfile: split as a shell does, with variables put in as BuildKit does.

Source of the rules: the "Environment replacement" section of Docker's Dockerfile reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

_SPECIAL = re.compile(r"[$'\"]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODIFIER = re.compile(r":?[-+?]|##?|%%?|//?")


class NoValue(Exception):
    """A variable that a word needs has no value. The text is its name."""


def split(text: str, escape: str = "\\") -> list[str]:
    """Return the words of a text; quotes and escapes hold blanks together, and stay in the words."""
    if escape not in text and "'" not in text and '"' not in text:
        return text.split()
    words: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        if char == escape and quote != "'" and at + 1 < len(text):
            word += text[at : at + 2]
            at += 2
            continue
        if not quote and char.isspace():
            words.append(word)
            word = ""
        else:
            word += char
            if quote:
                quote = "" if char == quote else quote
            elif char in "'\"":
                quote = char
        at += 1
    return [found for found in (*words, word) if found]


def expand(word: str, values: Mapping[str, str], escape: str = "\\") -> str:
    """Return a word without its quotes, and with the values of variables.

    Raises NoValue for a variable that has none; ValueError for a `${` that does not end as it should.
    """
    if not _SPECIAL.search(word) and escape not in word:
        return word
    return _Expansion(word, values, escape).until("")


class _Expansion:
    """A word that is read from left to right. at: where."""

    def __init__(self, word: str, values: Mapping[str, str], escape: str) -> None:
        self.word, self.values, self.escape = word, values, escape
        self.at = 0

    def until(self, end: str) -> str:
        """Return the text up to one of the characters `end`, which is not read; without, all of it."""
        out, quote = "", ""
        while self.at < len(self.word):
            char = self.word[self.at]
            if not quote and end and char in end:
                return out
            if char == "$" and quote != "'":
                out += self._variable()
                continue
            self.at += 1
            if char == self.escape and quote != "'" and self.at < len(self.word):
                following = self.word[self.at]
                # In double quotes only what would mean something there is escaped.
                out += following if not quote or following in f'"${self.escape}' else char + following
                self.at += 1
            elif char == quote:
                quote = ""
            elif not quote and char in "'\"":
                quote = char
            else:
                out += char
        if end:
            raise ValueError(f"{self.word}: a ${{ without its }}")
        return out

    def _variable(self) -> str:
        self.at += 1
        if self.word[self.at : self.at + 1] != "{":
            found = _NAME.match(self.word, self.at)
            if found is None:
                return "$"
            self.at = found.end()
            return self._value(found[0])
        found = _NAME.match(self.word, self.at + 1)
        if found is None:
            raise ValueError(f"{self.word}: ${{ without a name")
        self.at = found.end()
        modifier = _MODIFIER.match(self.word, self.at)
        if modifier is None:
            self._close()
            return self._value(found[0])
        self.at = modifier.end()
        return self._modified(found[0], modifier[0])

    def _modified(self, name: str, modifier: str) -> str:
        kind = modifier.lstrip(":")
        if kind[0] not in "-+?":
            return self._cut(name, kind)
        begin = self.at
        set_ = bool(self.values.get(name)) if modifier[0] == ":" else name in self.values
        # What is not taken may name variables that have no value.
        taken = (kind == "+") == set_ and kind != "?"
        other = self.until("}") if taken else self._skipped()
        if kind == "?" and not set_:
            raise NoValue(f"{name} ({self.word[begin : self.at]})")
        self._close()
        if taken:
            return other
        return "" if kind == "+" else self._value(name)

    def _skipped(self) -> str:
        values, self.values = self.values, _Anything()
        self.until("}")
        self.values = values
        return ""

    def _cut(self, name: str, kind: str) -> str:
        """Return a value with a pattern cut off or replaced; the pattern is of the shell."""
        replacing = kind[0] == "/"
        pattern = _regex(self.until("/}" if replacing else "}"))
        new = ""
        if replacing and self.word[self.at] == "/":
            self.at += 1
            new = self.until("}")
        self._close()
        value = self._value(name)
        if replacing:
            return pattern(True).sub(lambda _: new, value, count=0 if kind == "//" else 1)
        greedy = len(kind) == 2
        ends = range(len(value) + 1)
        if kind[0] == "#":
            found = [value[end:] for end in ends if pattern(greedy).fullmatch(value[:end])]
            return min(found, key=len) if found and greedy else max(found, key=len, default=value)
        found = [value[:end] for end in ends if pattern(greedy).fullmatch(value[end:])]
        return min(found, key=len) if found and greedy else max(found, key=len, default=value)

    def _close(self) -> None:
        if self.word[self.at : self.at + 1] != "}":
            raise ValueError(f"{self.word}: a ${{ without its }}")
        self.at += 1

    def _value(self, name: str) -> str:
        if name not in self.values:
            raise NoValue(name)
        return self.values[name]


class _Anything(Mapping[str, str]):
    """Every variable has a value here."""

    def __getitem__(self, name: str) -> str:
        return ""

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _regex(pattern: str) -> Callable[[bool], re.Pattern[str]]:
    pieces = {"*": (".*?", ".*"), "?": (".", ".")}
    return lambda greedy: re.compile(
        "".join(pieces[char][greedy] if char in pieces else re.escape(char) for char in pattern), re.DOTALL
    )
