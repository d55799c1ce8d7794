"""Keys of services: `domain|name!instance@role (version)`, read and written.

A key may name the services above it, outermost first: `node.ssh!rack4:redis!main`. The grammar:

    path    = key { ":" key }
    key     = [ role "/" ] [ domain "|" ] [ name ] [ version ] [ "!" instance ] [ "@" role ] [ version ]
            | domain "__" name "__" instance | domain "__" name
    version = "(" text ")"

`role/domain|name!instance` is the form in the help of AYS, `domain__name__instance` that of the directories
and parents of JumpScale 7; both are read, and never written. Blanks around parts are ignored, letters become
small. In a pattern, `*` and `?` stand for any characters and any one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from buildstep.errors import Fault, SpecError
from buildstep.services.interface import Key

WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
"""A domain, a name, an instance or a role. Two of them make the name of a directory, which has 255 bytes."""
WORD_TEXT = "a letter or digit, then letters, digits, `.`, `_` and `-`, 100 characters at most"

_TOKEN = re.compile(r"(?P<blank>[ \t]+)|(?P<version>\([^()]*\))|(?P<sign>[|!@/:])|(?P<word>[^\s|!@/:()]+)")
VERSION = re.compile(r"[a-z0-9][a-z0-9.+~:_-]*")
_PATTERN = re.compile(r"[a-z0-9.*?_-]+")
_FORM = "a key is domain|name!instance@role (version), each part may be left out"


class _Token(NamedTuple):
    """kind: blank, version, sign or word; at: the character it begins with, counted from 1."""

    kind: str
    text: str
    at: int


def parse_path(text: str, *, pattern: bool = True) -> tuple[Key, ...]:
    """Return the keys of a path, outermost first; one for a plain key. pattern: whether `*` and `?` may be
    in it. Raises SpecError with every fault and the character where it is."""
    parser = _Parser(text, pattern)
    keys = parser.path()
    if parser.faults:
        raise SpecError(f"key {text!r}", parser.faults)
    return keys


def parse_key(text: str, *, pattern: bool = True) -> Key:
    """Return the key that a text is; see `parse_path`, here without services above it."""
    path = parse_path(text, pattern=pattern)
    if len(path) > 1:
        fault = Fault(where=f"{text!r}", message="names services above the last one", hint="leave them out")
        raise SpecError(f"key {text!r}", [fault])
    return path[0]


def key_text(key: Key) -> str:
    """Return a key as `parse_key` reads it, in the one form that is written."""
    text = f"{key.domain}|" if key.domain else ""
    text += key.name
    text += f"!{key.instance}" if key.instance else ""
    text += f"@{key.role}" if key.role else ""
    return f"{text} ({key.version})".strip() if key.version else text


def role_of(name: str) -> str:
    """Return the role that a template or service of this name has: what is before the first dot."""
    return name.partition(".")[0]


def matches(pattern: Key, key: Key) -> bool:
    """Return whether a key has all the parts that a pattern has."""
    return all(
        not wanted or fnmatchcase(getattr(key, part), wanted)
        for part, wanted in ((f.name, getattr(pattern, f.name)) for f in dataclasses.fields(Key))
    )


def path_matches(pattern: Sequence[Key], path: Sequence[Key]) -> bool:
    """Return whether the last keys of a path match a pattern of as many: `node:redis!main` is every redis
    directly below a node."""
    if len(pattern) > len(path):
        return False
    return all(map(matches, pattern, path[len(path) - len(pattern) :]))


class _Parser:
    """Reads one path. faults: what is wrong with it."""

    def __init__(self, text: str, pattern: bool) -> None:
        self.pattern = pattern
        self.faults: list[Fault] = []
        self.tokens: list[_Token] = []
        at, small = 0, text.lower()  # which may have more characters: İ
        while at < len(small):
            found = _TOKEN.match(small, at)
            if found is None:
                self.fault(at + 1, f"{small[at]!r} cannot be in a key", _FORM)
                at += 1
                continue
            if found.lastgroup != "blank":
                self.tokens.append(_Token(found.lastgroup or "", found[0], at + 1))
            at = found.end()
        self.tokens.append(_Token("end", "", len(small) + 1))
        self.next = 0
        self.slash = False  # the key that is read has its role before a slash

    def fault(self, at: int, message: str, hint: str = "") -> None:
        self.faults.append(Fault(where=f"character {at}", message=message, hint=hint))

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def take(self, kind: str, text: str = "") -> _Token | None:
        """Return the next token and go on, if it is this one."""
        token = self.token
        if token.kind != kind or (text and token.text != text):
            return None
        self.next += 1
        return token

    def path(self) -> tuple[Key, ...]:
        keys = [self.key()]
        while self.take("sign", ":"):
            keys.append(self.key())
        if self.token.kind != "end":
            self.fault(self.token.at, f"{self.token.text!r} is not expected here", _FORM)
        return tuple(keys)

    def key(self) -> Key:
        begin = self.token.at
        self.slash = False
        parts: dict[str, str] = {}
        while self.token.kind in ("word", "sign", "version") and self.token.text != ":":
            before = self.next
            self.part(parts)
            if self.next == before:
                break
        if not parts and not self.faults:
            self.fault(begin, "a key has at least one part", _FORM)
        return Key(**parts)

    def part(self, parts: dict[str, str]) -> None:
        """Read one part of a key. Parts stand in their order: none comes after a later one."""
        if version := self.take("version"):
            self.give(parts, "version", version._replace(text=version.text[1:-1].strip()))
        elif sign := self.take("sign", "!") or self.take("sign", "@"):
            kind = "instance" if sign.text == "!" else "role"
            if word := self.take("word"):
                if kind == "instance" and "role" in parts and not self.slash:
                    self.fault(sign.at, "the instance comes before the role", "name!instance@role")
                self.give(parts, kind, word)
            else:
                self.fault(sign.at, f"no {kind} after {sign.text!r}", _FORM)
        elif word := self.take("word"):
            self.word(parts, word)

    def word(self, parts: dict[str, str], word: _Token) -> None:
        """A word that no sign is before is a role before `/`, a domain before `|`, else the name."""
        if self.take("sign", "/"):
            self.slash = True
            self.give(parts, "role", word)
        elif self.take("sign", "|"):
            self.give(parts, "domain", word)
        elif "__" in word.text and "name" not in parts and "domain" not in parts:
            for kind, text in zip(("domain", "name", "instance"), word.text.split("__", 2), strict=False):
                self.give(parts, kind, word._replace(text=text))
        else:
            if late := next((kind for kind in ("instance", "version") if kind in parts), ""):
                self.fault(word.at, f"the name {word.text!r} comes after the {late}", _FORM)
            self.give(parts, "name", word)

    def give(self, parts: dict[str, str], kind: str, word: _Token) -> None:
        if parts.get(kind, word.text) != word.text:
            self.fault(word.at, f"a second {kind}, {word.text!r} after {parts[kind]!r}", _FORM)
        rule = VERSION if kind == "version" else _PATTERN if self.pattern else WORD
        if not rule.fullmatch(word.text):
            allowed = "letters, digits and . + ~ : _ -" if kind == "version" else WORD_TEXT
            self.fault(word.at, f"{word.text!r} is no {kind}", allowed)
        parts[kind] = word.text
