"""Reads HRD: lines to entries, with every fault at its line and column."""

from __future__ import annotations

import binascii
import bisect
import re
from collections.abc import Callable
from typing import NamedTuple

from buildstep.errors import Fault
from buildstep.services.hrd.ask import ask_of, code_at
from buildstep.services.hrd.entries import Entry, Node, Other
from buildstep.services.hrd.tags import tags_of
from buildstep.services.hrd.values import (
    BLANKS,
    CONTROL,
    Item,
    Marks,
    Value,
    Wrong,
    ask_at,
    bare_or_quoted,
    items_of,
    pairs_of,
    pieces,
    scan,
    short,
)

BINARY_END = "#BINARYEND#########"
_PLAIN_ENTRY = re.compile(r"[ \t]*[\w.\-]+[ \t]*=")
_BINARY_ENTRY = re.compile(r"[\w.\-]+[ \t]*=[ \t]*bq?p?[ \t]*")
BAD_KEY = re.compile(r"[:,'\"]")
"""What no key has: a line of a dict or a list that is out of its block looks like this."""
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://")


class _Line(NamedTuple):
    """A line of a block. at: its column's offset in the file's line; text: without blanks around it."""

    number: int
    at: int
    text: str
    marks: Marks


class Reader:
    """One reading of one text."""

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.raw = text.split("\n")
        """The lines of the file, with the \\r of those that have one."""
        self.nodes: list[Node] = []
        self.faults: list[Fault] = []
        self.known: dict[str, int] = {}
        self.at = 0
        """The number of the next line, from 0."""
        self.ends: list[int] | None = None
        """The lines that end binary values, once one is sought."""

    def read(self) -> None:
        """Read all: `nodes` and `faults` have what is there."""
        last = len(self.raw) - 1
        while self.at <= last:
            if self.at == last and not self.raw[last]:
                return
            if not self._is_bad(self.at):
                self._line()
            else:
                self.at += 1

    def fault(self, line: int, offset: int, message: str, hint: str) -> None:
        """Remember a fault. line and offset are from 0."""
        self.faults.append(Fault(where=f"{self.where}:{line + 1}:{offset + 1}", message=message, hint=hint))

    def text_of(self, line: int) -> str:
        """Return a line without its end."""
        text = self.raw[line]
        return text.removesuffix("\r")

    def raw_of(self, first: int, end: int) -> str:
        """Return lines as they are in the file, with their ends (the last one of the file may have none)."""
        text = "\n".join(self.raw[first:end])
        return text if end == len(self.raw) else text + "\n"

    def _is_bad(self, line: int) -> bool:
        found = CONTROL.search(self.text_of(line))
        if found:
            what = f"the character U+{ord(found[0]):04X}"
            hint = "end lines with a newline alone, or with \\r\\n" if found[0] == "\r" else "take it out"
            self.fault(line, found.start(), f"{what} has no place in HRD", hint)
        return found is not None

    def _line(self) -> None:
        """Read what begins on the next line."""
        line = self.at
        text = self.text_of(line)
        start = text.lstrip(BLANKS)
        offset = len(text) - len(start)
        if not start or start[0] == "#":
            self.nodes.append(Other(self.raw_of(line, line + 1)))
            self.at += 1
            return
        self.at += 1
        head, equals, rest = start.partition("=")
        if start[0] == "@":
            self.fault(
                line,
                offset,
                "a line that begins with @ was left out by the old parser",
                "put a key before it, or a #",
            )
        elif not equals or "#" in head:
            self._no_entry(line, offset, text)
        elif not head.strip(BLANKS):
            self.fault(line, offset, "an = without a key before it", "write key = value")
        elif BAD_KEY.search(head):
            self.fault(
                line, offset, f"`{short(head.strip(BLANKS))}` is no key, and this line is in no block",
                "take the blank line or comment before it out if it belongs to a block, or mend the key",
            )  # fmt: skip
        else:
            self._entry(line, offset, head.rstrip(BLANKS), rest)

    def _no_entry(self, line: int, offset: int, text: str) -> None:
        before = self.nodes[-1] if self.nodes else None
        if isinstance(before, Entry) and not before.block and text[0] in BLANKS:
            self.fault(
                line, offset, f"the value of {before.key} ends on its own line; this one would be lost",
                "put all of it on one line, or begin the block on the line after the =",
            )  # fmt: skip
        elif text[0] in BLANKS:
            self.fault(
                line, offset, "an indented line that belongs to no key",
                "take the blank line before it out if it belongs to that block, or write key = value",
            )  # fmt: skip
        else:
            self.fault(
                line, offset, f"`{short(text.strip(BLANKS))}` has no =", "write key = value, or a # before it"
            )

    def _entry(self, line: int, offset: int, key: str, rest: str) -> None:
        """Read the entry whose key is on a line."""
        shift = offset + self.text_of(line)[offset:].index("=") + 1
        if (first := self.known.get(key)) is not None:
            self.fault(
                line, offset, f"{key} has a value already, in line {first + 1}, which this one would replace",
                "take one of the two out",
            )  # fmt: skip
        self.known.setdefault(key, line)
        try:
            marks = scan(rest)
        except Wrong as wrong:
            self.fault(line, shift + wrong.at, wrong.message, wrong.hint)
            self._skip_block()
            return
        text = rest[: marks.end].strip(BLANKS)
        note = rest[marks.end :].rstrip(BLANKS)
        value: Value | None
        block = True
        if text in ("b", "bqp"):
            value = self._binary(line, key, text)
        elif text.upper() == "@ASK,":
            value = self._ask_block(line, shift + rest.index("@"), text)
        elif text:
            block = False
            value = self._inline(line, shift, rest, marks)
        else:
            lines = self._block(key)
            value = self._block_value(lines) if lines is not None else None
        if value is None:
            return
        raw = self.raw_of(line, self.at)
        self.nodes.append(Entry(key, value, line + 1, offset + 1, raw, block, note))

    def _guarded(self, line: int, shift: int, job: Callable[[], Value]) -> Value | None:
        try:
            return job()
        except Wrong as wrong:
            self.fault(line, shift + wrong.at, wrong.message, wrong.hint)
            return None

    # Values on the key's line.

    def _inline(self, line: int, shift: int, rest: str, marks: Marks) -> Value | None:
        return self._guarded(line, shift, lambda: self._inline_value(line, shift, rest, marks))

    def _inline_value(self, line: int, shift: int, rest: str, marks: Marks) -> Value:
        text = rest[: marks.end].strip(BLANKS)
        start = rest.index(text[0])
        at = ask_at(rest, marks)
        if at is not None:
            prefix = rest[:at].lstrip(BLANKS)
            self._no_code(line, shift, rest[: marks.end])
            return self._ask(line, shift + at, prefix, rest[at + 4 : marks.end])
        if rest[0] == '"':
            return bare_or_quoted(text, start)
        if text == ":":
            return {}
        if marks.colons:
            if _ADDRESS.match(text):
                raise Wrong(
                    start,
                    "an address that is taken apart at its colon",
                    f"put it in single quotes: '{short(text)}'",
                )
            return self._dict(line, shift, pairs_of(rest, marks), {})
        if marks.commas:
            return items_of(rest, marks)
        return bare_or_quoted(text, start)

    def _dict(
        self, line: int, shift: int, pairs: list[tuple[int, str, Item]], known: dict[str, Item]
    ) -> dict[str, Item]:
        """Put the entries of a line into a dict. A key that is there twice is a fault."""
        for at, key, value in pairs:
            if key in known:
                self.fault(
                    line, shift + at, f"the key {key} is in this dict twice", "take one of the two out"
                )
            known[key] = value
        return known

    def _no_code(self, line: int, shift: int, text: str) -> None:
        """Note a fault if a question has `{{ }}`, which a regular expression alone may have."""
        at = code_at(text)
        if at is not None and "regex:" not in text[:at]:
            self.fault(line, shift + at, "{{ }} is not run", "write the value, or leave it to be asked")

    def _ask(self, line: int, shift: int, prefix: str, tags: str) -> Value:
        ask, faults = ask_of(prefix, tags_of(tags, 4))
        for offset, found in faults:
            self.fault(line, shift + offset, found.message, found.hint)
        return ask

    # Values on the lines after the key.

    def _block(self, key: str) -> list[_Line] | None:
        """Return the lines of the block that begins on the next line, and go on after it. None: a fault."""
        lines: list[_Line] = []
        fine = True
        while self.at < len(self.raw):
            text = self.text_of(self.at)
            start = text.strip(BLANKS)
            if not start:
                break
            if text[0] == "#" or (text[0] in BLANKS and start[0] == "#"):
                fine = self._comment_in_block(key) and fine
                break
            if text[0] == "\t":
                self.fault(
                    self.at,
                    0,
                    f"a tab indents a line after {key} =",
                    "indent the lines of a block with blanks",
                )
                fine = False
            elif text[0] != " ":
                if lines:
                    self.fault(
                        self.at, 0, f"the block of {key} is not ended; this line was lost by the old parser",
                        "put a blank line before it, or indent it",
                    )  # fmt: skip
                break
            fine = self._block_line(key, text, lines) and fine
            self.at += 1
        return lines if fine else None

    def _block_line(self, key: str, text: str, lines: list[_Line]) -> bool:
        """Read one line of a block; return whether nothing is wrong with it."""
        start = text.lstrip(BLANKS)
        offset = len(text) - len(start)
        if self._is_bad(self.at):
            return False
        try:
            marks = scan(start)
            if start[0] == "@" or ask_at(start, marks) is not None:
                raise Wrong(
                    0,
                    "this line of a block would ask, or be left out",
                    f"write {key} = @ASK on one line, or quote it",
                )
        except Wrong as wrong:
            self.fault(self.at, offset + wrong.at, wrong.message, wrong.hint)
            return False
        lines.append(_Line(self.at, offset, start[: marks.end].rstrip(BLANKS), marks))
        return True

    def _comment_in_block(self, key: str) -> bool:
        """Return whether the comments at which a block ends cut nothing off; else it is a fault."""
        line = self.at
        while line < len(self.raw) and self.text_of(line).lstrip(BLANKS).startswith("#"):
            line += 1
        after = self.text_of(line) if line < len(self.raw) else ""
        if not after.strip(BLANKS) or after[0] not in BLANKS or _PLAIN_ENTRY.match(after):
            return True
        self.fault(
            self.at, 0, f"a comment ends the block of {key}; the lines after it would be lost",
            f"put the comment before {key}, or after the block",
        )  # fmt: skip
        self.at = line
        self._skip_block()
        return False

    def _skip_block(self) -> None:
        """Go on after the lines of a block that nothing can be made of."""
        while self.at < len(self.raw) and self.text_of(self.at)[:1] in (" ", "\t"):
            if not self.text_of(self.at).strip(BLANKS):
                return
            self.at += 1

    def _block_value(self, lines: list[_Line]) -> Value | None:
        """Return what a block says; its first line tells what it is."""
        if not lines:
            return ""
        first = lines[0]
        if not first.text.endswith(","):
            return self._text(lines)
        is_dict = bool(first.marks.colons)
        items: list[Item] = []
        known: dict[str, Item] = {}
        fine = True
        for number, line in enumerate(lines):
            before = len(self.faults)
            self._comma(line, last=number == len(lines) - 1)
            try:
                if is_dict:
                    self._dict(line.number, line.at, pairs_of(line.text, line.marks), known)
                else:
                    items += items_of(line.text, line.marks)
            except Wrong as wrong:
                self.fault(line.number, line.at + wrong.at, wrong.message, wrong.hint)
            fine = fine and len(self.faults) == before
        if not fine:
            return None
        return known if is_dict else items

    def _comma(self, line: _Line, *, last: bool) -> None:
        if not last and not line.text.endswith(",") and pieces(line.text, line.marks):
            self.fault(
                line.number, line.at + len(line.text), "no comma at the end: the next line would go on",
                "put a comma there",
            )  # fmt: skip

    def _text(self, lines: list[_Line]) -> str:
        """Return a text of several lines. Blanks that all lines begin with are no part of it."""
        from buildstep.services.hrd.escapes import decode

        indent = min(line.at for line in lines)
        found = []
        for line in lines:
            text = line.text
            if len(text) > 1 and line.marks.quoted[:1] == [(0, len(text))]:
                found.append(decode(text[1:-1]))
            else:
                found.append(self.text_of(line.number)[indent : line.at] + decode(text))
        return "\n".join(found)

    def _ask_block(self, line: int, shift: int, text: str) -> Value | None:
        if not text.startswith("@ASK"):
            self.fault(line, shift, f"{text[:-1]} asks nothing", "write @ASK in capital letters")
            self._skip_block()
            return None
        lines = self._block("@ASK")
        if lines is None:
            return None
        for row in lines:
            self._no_code(row.number, row.at, row.text)
        tags = [tag._replace(at=0) for row in lines for tag in tags_of(row.text)]
        ask, faults = ask_of("", tags)
        for _, found in faults:
            self.fault(line, shift, found.message, found.hint)
        return ask

    def _binary(self, line: int, key: str, form: str) -> bytes | None:
        if self.ends is None:
            self.ends = [number for number, text in enumerate(self.raw) if text.startswith(BINARY_END)]
        after = bisect.bisect_left(self.ends, self.at)
        if after < len(self.ends):
            rows = []
            for number in range(self.at, self.ends[after]):
                rows.append(self.text_of(number))
                if _BINARY_ENTRY.fullmatch(rows[-1]):
                    self._unended(line, key, form, f"before line {number + 1}")
                    return None
            self.at = self.ends[after] + 1
            data = "\n".join(rows).encode(errors="surrogatepass")
            return data if form == "b" else binascii.a2b_qp(data)
        self._unended(line, key, form, "after it")
        return None

    def _unended(self, line: int, key: str, form: str, where: str) -> None:
        self.fault(
            line, 0, f"the binary value of {key} has no line {BINARY_END} {where}",
            f"write {key} = '{form}' if this is a text",
        )  # fmt: skip
