"""The layout of a file of HRD: one space around `=`, blocks indented by four, nothing in it changed."""

from __future__ import annotations

from buildstep.services.hrd.document import Document
from buildstep.services.hrd.entries import Entry, Other
from buildstep.services.hrd.values import BLANKS

INDENT = "    "


def formatted(document: Document) -> str:
    """Return a file's text in our layout: its comments, its order and its spelling of values stay.

    `key = value`, two blanks before a comment behind a value, block lines indented by four blanks (lines of a
    text that are further in stay so), a blank line after a block, never two, no blanks at line ends, \\n as
    line ends, and one at the end. Of this text it gives the very text again.
    """
    rows: list[str] = []
    after_block = False
    for node in document.nodes:
        if isinstance(node, Other):
            text = node.raw.strip(f"{BLANKS}\r\n")
            if text and after_block and rows[-1]:
                rows.append("")
            if text or (rows and rows[-1]):
                rows.append(text)
            after_block = after_block and not text
            continue
        if after_block and rows[-1]:
            rows.append("")
        first, *more = _entry(node)
        rows += (first, *more)
        after_block = bool(more) and not isinstance(node.value, bytes)
    while rows and not rows[-1]:
        rows.pop()
    return "".join(f"{row}\n" for row in rows)


def _entry(entry: Entry) -> list[str]:
    """Return the lines of an entry."""
    lines = [line.removesuffix("\r") for line in entry.raw.removesuffix("\n").split("\n")]
    rest = lines[0].partition("=")[2]
    text = (rest[: rest.rindex(entry.note)] if entry.note else rest).strip(BLANKS)
    # Directly after the = a double quote makes all that follows a text; see the reader.
    blank = " " if text and rest[0] != '"' else ""
    first = f"{entry.key} ={blank}{text}"
    if entry.note:
        first += f"  {entry.note}"
    if isinstance(entry.value, bytes):
        return [first, *lines[1:]]
    block = [line.rstrip(BLANKS) for line in lines[1:]]
    least = min((len(line) - len(line.lstrip(BLANKS)) for line in block), default=0)
    if not isinstance(entry.value, str):
        return [first, *(INDENT + line.lstrip(BLANKS) for line in block)]
    return [first, *(INDENT + line[least:] for line in block)]
