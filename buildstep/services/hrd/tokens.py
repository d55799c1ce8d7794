"""The tokens of a file of HRD, for editors: what each part is. `hrd.tmLanguage.json` says the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from buildstep.services.hrd.ask import Ask
from buildstep.services.hrd.document import parse
from buildstep.services.hrd.entries import Entry, Other

GRAMMAR = Path(__file__).with_name("hrd.tmLanguage.json")
"""The grammar for editors that take TextMate's: VS Code, Sublime Text, JetBrains, GitHub's Linguist."""


class Kind(StrEnum):
    """What a token is; the value is the beginning of its scope in the grammar."""

    COMMENT = "comment.line"
    KEY = "variable.other.key"
    EQUALS = "keyword.operator.assignment"
    QUOTED = "string.quoted.single"
    REFERENCE = "variable.other.reference"
    ASK = "keyword.control.ask"
    TAG = "entity.name.tag"
    ESCAPE = "constant.character.escape"
    BINARY = "keyword.other.binary"
    DATA = "string.unquoted.binary"


class Token(NamedTuple):
    """A part of a line that means something. line, column: from 1."""

    kind: Kind
    line: int
    column: int
    text: str


_SIGN = re.compile(
    r"(?P<quoted>'[^']*')|(?P<ref>\$\([\w.]+\))|(?P<escape>\\(?:[SQKDNn]|E[SQKDNnEA]))|(?P<ask>@ASK(?!\w))"
)
_TAG = re.compile(r"(?<![^\s])(\w+)(?=:)")
_KINDS = {"quoted": Kind.QUOTED, "ref": Kind.REFERENCE, "escape": Kind.ESCAPE, "ask": Kind.ASK}


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of a file in their order; what lies between them is plain text.

    Raises SpecError for a file that is no HRD.
    """
    line = 1
    for node in parse(text).nodes:
        rows = [row.removesuffix("\r") for row in node.raw.removesuffix("\n").split("\n")]
        if isinstance(node, Other):
            if start := rows[0].lstrip():
                yield Token(Kind.COMMENT, line, len(rows[0]) - len(start) + 1, start)
        else:
            yield from _entry(node, rows, line)
        line += len(rows)


def _entry(entry: Entry, rows: list[str], line: int) -> Iterator[Token]:
    equals = rows[0].index("=", entry.column - 1)
    yield Token(Kind.KEY, line, entry.column, entry.key)
    yield Token(Kind.EQUALS, line, equals + 1, "=")
    if isinstance(entry.value, bytes):
        form = rows[0][equals + 1 :].split()[0]
        yield Token(Kind.BINARY, line, rows[0].index(form, equals) + 1, form)
        for number, row in enumerate(rows[1:], line + 1):
            last = number == line + len(rows) - 1
            if row:
                yield Token(Kind.BINARY if last else Kind.DATA, number, 1, row)
        return
    start = equals + 1
    for number, row in enumerate(rows, line):
        yield from _value(row, start, number, asks=isinstance(entry.value, Ask))
        start = 0


def _value(row: str, start: int, line: int, *, asks: bool) -> Iterator[Token]:
    """Yield the tokens of a value, or of a line of a block."""
    from buildstep.services.hrd.values import scan

    end = start + scan(row[start:].lstrip(" \t") if not start else row[start:]).end
    end += 0 if start else len(row) - len(row.lstrip(" \t"))
    found = []
    for match in _SIGN.finditer(row, start, end):
        kind = _KINDS[match.lastgroup or ""]
        found.append(Token(kind, line, match.start() + 1, match[0]))
    quoted = [
        (token.column - 1, token.column - 1 + len(token.text)) for token in found if token.kind is Kind.QUOTED
    ]
    if asks:
        for match in _TAG.finditer(row, start, end):
            if not any(first < match.start() < last for first, last in quoted):
                found.append(Token(Kind.TAG, line, match.start() + 1, match[0]))
    if end < len(row):
        found.append(Token(Kind.COMMENT, line, end + 1, row[end:].rstrip()))
    yield from sorted(found, key=lambda token: token.column)
