"""Values of HRD: what they are, how quotes, commas and escapes are read, and how a value is spelled."""

from __future__ import annotations

import binascii
import re
from enum import StrEnum
from typing import NamedTuple

from buildstep.services.hrd.ask import Ask
from buildstep.services.hrd.escapes import decode, encode, encode_bare, spell

Scalar = str | int | float
Item = str | list[Scalar]
"""What a list or a dict holds: a text, or a list that is spelled `[1, 2]`. There is one level and no more."""

Value = str | bytes | list[Item] | dict[str, Item] | Ask
"""What a key has. A text is a text even if digits are all of it; see `Document` for typed access."""

BLANKS = " \t"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""What no HRD file can hold: control characters but tab and newline, and halves of characters."""

_MARK = re.compile(r"'[^']*'|[\[\],:#]")
_ASK = re.compile(r"@ask(?!\w)", re.IGNORECASE)


class Form(StrEnum):
    """How a value is spelled."""

    TEXT = "text"
    LIST = "list"
    DICT = "dict"
    ASK = "ask"
    BINARY = "binary"


class Wrong(Exception):
    """What is wrong with a part of a line. at: its offset in that part."""

    def __init__(self, at: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message
        self.hint = hint


class Marks(NamedTuple):
    """Where the signs of a text are that no quote protects. end: where it ends, before a comment if there is
    one; quoted: where quoted texts are, with their quotes. A comma in a closed `[...]` is none."""

    commas: list[int]
    colons: list[int]
    quoted: list[tuple[int, int]]
    end: int


def scan(text: str) -> Marks:
    """Return the signs of a value, or of a line of one.

    A `'` begins a quoted text that ends at the next one. A comment begins at a `#` after a blank; raises
    Wrong for one that follows something else, where it would cut a value short.
    """
    commas: list[int] = []
    colons: list[int] = []
    quoted: list[tuple[int, int]] = []
    inside: list[int] | None = None
    for match in _MARK.finditer(text):
        at, sign = match.start(), match[0]
        if sign[0] == "'":
            if "#" in sign and at and (text[at - 1].isalnum() or text[at - 1] == "'"):
                # An apostrophe in a word, whose pair is in the comment: it protects nothing.
                return scan(text[: _comment(text, text.index("#", at))])
            quoted.append(match.span())
        elif sign == "#":
            return Marks(commas + (inside or []), colons, quoted, _comment(text, at))
        elif sign == "[":
            commas += inside or []
            inside = []
        elif sign == "]":
            inside = None
        elif sign == ",":
            (commas if inside is None else inside).append(at)
        else:
            colons.append(at)
    return Marks(commas + (inside or []), colons, quoted, len(text))


def _comment(text: str, at: int) -> int:
    if at and text[at - 1] not in BLANKS:
        raise Wrong(
            at,
            "a # directly after a value would cut it off there",
            "put the value in single quotes, or a blank before the # if it begins a comment",
        )
    return at


def ask_at(text: str, marks: Marks) -> int | None:
    """Return where the @ASK of a value begins, None if it has none. Raises Wrong for one in small letters."""
    if "@" not in text:
        return None
    parts: list[str] = []
    last = 0
    for start, end in marks.quoted:
        parts += (text[last:start], "'" * (end - start))
        last = end
    unquoted = "".join((*parts, text[last : marks.end]))
    for match in _ASK.finditer(unquoted):
        if match[0] == "@ASK":
            return match.start()
        if marks.commas or marks.colons or not match.start() or unquoted[match.start() - 1] in BLANKS:
            raise Wrong(
                match.start(),
                f"{match[0]} asks nothing",
                "write @ASK to ask, or put the value in single quotes",
            )
    return None


def bare_or_quoted(text: str, at: int = 0) -> str:
    """Return the text that a scalar or an item stands for: without the quotes around it, escapes read.

    at: its offset, for the error. Raises Wrong if a quote is not closed.
    """
    if text[:1] == "'":
        if len(text) < 2 or text[-1] != "'":
            closed = text.rfind("'")
            if closed > 0:
                raise Wrong(
                    at + closed + 1,
                    "more text comes after the quote that ends the value",
                    "put all of it between the quotes",
                )
            raise Wrong(
                at,
                "this quote is not closed on its line",
                r"put a ' at its end; within quotes \N is a newline, and \EA an apostrophe",
            )
        return decode(text[1:-1])
    return decode(text)


def item_of(text: str, at: int = 0) -> Item:
    """Return what an item of a list or a value of a dict stands for; see `bare_or_quoted`."""
    if text[:1] == "[" and text[-1:] == "]":
        inside = text[1:-1]
        members: list[Scalar] = []
        for _, piece in pieces(inside, scan(inside)):
            if piece[0] == "[":
                raise Wrong(
                    at, "a list in brackets holds no other list", "write the inner one under its own key"
                )
            members.append(bare_or_quoted(piece, at) if piece[0] == "'" else _number(decode(piece)))
        return members
    return bare_or_quoted(text, at)


def _number(text: str) -> Scalar:
    """Return a member of a bracket list as the number that it is, if it is one."""
    if re.fullmatch(r"\d{1,18}", text, re.ASCII):
        return int(text)
    return float(text) if re.fullmatch(r"\d{1,15}\.\d{1,15}", text, re.ASCII) else text


def pieces(text: str, marks: Marks) -> list[tuple[int, str]]:
    """Return what is between the commas of a text, without blanks around it, and where; nothing is left out
    but what is empty."""
    found = []
    start = 0
    for comma in (*marks.commas, marks.end):
        piece = text[start:comma]
        if stripped := piece.strip(BLANKS):
            found.append((start + piece.index(stripped[0]), stripped))
        start = comma + 1
    return found


def items_of(text: str, marks: Marks) -> list[Item]:
    """Return the items of a list that is spelled in one line."""
    return [item_of(piece, at) for at, piece in pieces(text, marks)]


def pairs_of(text: str, marks: Marks) -> list[tuple[int, str, Item]]:
    """Return the entries of a dict that is spelled in one line: where each begins, its key, its value.

    Raises Wrong for a piece without a colon, and for an address that would be taken apart at its colon.
    """
    found = []
    colons = iter(marks.colons)
    colon = next(colons, None)
    for at, piece in pieces(text, marks):
        while colon is not None and colon < at:
            colon = next(colons, None)
        if colon is None or colon >= at + len(piece):
            raise Wrong(
                at,
                f"`{short(piece)}` has no colon, and this is a dict",
                "write name:value, or quote the comma",
            )
        key, rest = piece[: colon - at].rstrip(BLANKS), piece[colon - at + 1 :]
        if rest.startswith("//"):
            raise Wrong(
                at, f"`{short(piece)}` would be a dict with the key {short(key)}", "put it in single quotes"
            )
        if key[:1] != "'" and key.count('"') % 2:
            raise Wrong(at, "a double quote protects no colon and no comma", "use single quotes")
        value = rest.strip(BLANKS)
        found.append((at, bare_or_quoted(key, at), item_of(value, at + piece.rindex(value))))
    return found


def short(text: str) -> str:
    """Return a text for a message: of a long one the beginning."""
    return text if len(text) <= 40 else f"{text[:37]}..."


def _spell_item(item: Item) -> str:
    if isinstance(item, str):
        return spell(item)
    return "[" + ", ".join(_spell_member(member) for member in item) + "]"


def _spell_member(member: Scalar) -> str:
    if isinstance(member, str):
        return spell(member, force=_number(member) != member)
    text = repr(member)
    if _number(text) != member or isinstance(member, bool):
        raise ValueError(f"the number {member} cannot be said in a list in brackets")
    return text


def render(value: Value) -> list[str]:
    """Return how a value is written: what follows `key =`, and the lines of its block without their indent.

    Raises ValueError, with a sentence, for a value that HRD has no way to say.
    """
    if isinstance(value, bytes):
        encoded = binascii.b2a_qp(value, quotetabs=True, istext=False).replace(b"#", b"=23").decode("ascii")
        return [" bqp", *encoded.split("\n"), "#BINARYEND#########"]
    if isinstance(value, Ask):
        lines = [f" {value}"]
    elif isinstance(value, dict):
        lines = (
            ["", *(f"{spell(key)}:{_spell_value(item)}," for key, item in value.items())] if value else [" :"]
        )
    elif isinstance(value, list):
        lines = ["", *(f"{_spell_item(item)}," for item in value)] if value else [" ,"]
    elif "\n" in value:
        lines = ["", *map(_spell_line, value.split("\n"))]
    else:
        lines = [f" {spell(value, force=value in ('b', 'bqp'))}"]
    for line in lines:
        if found := CONTROL.search(line):
            raise ValueError(f"the character U+{ord(found[0]):04X} cannot be said in HRD")
    return lines


def _spell_value(item: Item) -> str:
    """Return a value of a dict; what begins with // would be taken for an address that a colon cuts."""
    if isinstance(item, str) and item.startswith("//"):
        return spell(item, force=True)
    return "" if item == "" else _spell_item(item)


def _spell_line(line: str) -> str:
    r"""Return a line of a multi-line text: as it is, or in quotes if something in it would be read."""
    plain = line and line[0] not in " \t'" and line[-1] not in " \t," and "#" not in line and "@" not in line
    return encode_bare(line) if plain else f"'{encode(line)}'"
