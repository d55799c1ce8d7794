"""Entries of a file of HRD, and the lines between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from buildstep.services.hrd.values import Form, Value


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value. line, column: of the key, from 1. raw: its lines as they are in the file, with
    their ends. block: whether its value is on the lines after the key (a block may be empty). note: the
    comment on the key's line, from the # on."""

    key: str
    value: Value
    line: int
    column: int
    raw: str
    block: bool = False
    note: str = ""

    @property
    def form(self) -> Form:
        """How its value is spelled."""
        return form_of(self.value)


class Other(NamedTuple):
    """A line that is no entry: blank, or a comment."""

    raw: str


Node = Entry | Other


def form_of(value: Value) -> Form:
    """Return the form of a value."""
    if isinstance(value, str):
        return Form.TEXT
    if isinstance(value, bytes):
        return Form.BINARY
    if isinstance(value, list):
        return Form.LIST
    return Form.DICT if isinstance(value, dict) else Form.ASK
