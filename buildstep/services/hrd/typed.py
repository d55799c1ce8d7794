"""Typed access to values: what a text is as a number, a truth, a list or a dict."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from buildstep.errors import Fault, SpecError
from buildstep.services.hrd.ask import Ask
from buildstep.services.hrd.values import Form, Value, Wrong, items_of, pairs_of, scan

if TYPE_CHECKING:
    from buildstep.services.hrd.document import Document

_INTEGER = re.compile(r"-?(0|[1-9]\d{0,299})", re.ASCII)
_REAL = re.compile(r"-?(0|[1-9]\d{0,14})\.\d{1,15}", re.ASCII)
_ANY_INTEGER = re.compile(r"[+-]?\d{1,300}", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_NOTHING = ("", "none")


class Mistyped(Exception):
    """A value that is not of the type that is wanted: `message` follows the key's name."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def _not(value: Value, wanted: str, hint: str) -> Mistyped:
    if isinstance(value, Ask):
        return Mistyped("is asked for and has no answer", "answer it, or write a value")
    kind = {bytes: "binary", list: "a list", dict: "a dict"}.get(type(value))
    return Mistyped(f"is {kind or repr(value)}, not {wanted}", hint)


def text(value: Value) -> str:
    """Return a text. Raises Mistyped, as the others here."""
    if isinstance(value, str):
        return value
    raise _not(value, "a text", "")


def integer(value: Value) -> int:
    """Return a whole number: digits, with a sign or not. Nothing, and `none`, are 0."""
    if isinstance(value, str):
        word = value.strip()
        if word.lower() in _NOTHING:
            return 0
        if _ANY_INTEGER.fullmatch(word):
            return int(word)
    raise _not(value, "a whole number", "write digits")


def real(value: Value) -> float:
    """Return a number that is finite. Nothing, and `none`, are 0."""
    if isinstance(value, str):
        word = value.strip()
        if word.lower() in _NOTHING:
            return 0.0
        if re.fullmatch(r"[+-]?(\d{1,300}(\.\d{0,300})?|\.\d{1,300})([eE][+-]?\d{1,3})?", word, re.ASCII):
            number = float(word)
            if abs(number) != float("inf"):
                return number
    raise _not(value, "a number", "write digits, with a . before decimals")


def boolean(value: Value) -> bool:
    """Return whether a value is `true` or `1`; `false`, `0`, `none` and nothing are not."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("true", "1"):
            return True
        if word in ("false", "0", *_NOTHING):
            return False
    raise _not(value, "true or false", "write True or False")


def items(value: Value) -> list[Any]:
    """Return a list. A text is taken apart at its commas; nothing is an empty list."""
    if isinstance(value, list):
        return list(value)
    if isinstance(value, str):
        try:
            return list(items_of(value, scan(value)))
        except Wrong as wrong:
            raise Mistyped(wrong.message, wrong.hint) from None
    raise _not(value, "a list", "write a, b")


def table(value: Value) -> dict[str, Any]:
    """Return a dict with its values typed by `guess`. A text is taken apart; nothing is an empty dict."""
    if isinstance(value, str):
        try:
            value = {} if value.strip() in ("", "{}") else {k: v for _, k, v in pairs_of(value, scan(value))}
        except Wrong as wrong:
            raise Mistyped(wrong.message, wrong.hint) from None
    if isinstance(value, dict):
        return {key: guess(item) if isinstance(item, str) else item for key, item in value.items()}
    raise _not(value, "a dict", "write name:value, name:value")


def guess(word: str) -> Any:
    """Return a value of a dict as what it looks like: int, float, bool, None (`none`, `empty`), or text.

    A number is one only if it is written as Python writes it, so that 0644 and 3.10 stay texts; the old
    parser made 644 and 3.1 of them, and took no negative numbers.
    """
    lower = word.strip().lower()
    if lower in ("none", "empty"):
        return None
    if lower in ("true", "false"):
        return lower == "true"
    if _INTEGER.fullmatch(lower) and lower != "-0":
        return int(lower)
    if _REAL.fullmatch(lower) and repr(float(lower)) == lower:
        return float(lower)
    return word


def numbered(document: Document, prefix: str) -> dict[int, Value]:
    """See `Document.numbered`."""
    found: dict[int, str] = {}
    faults = []
    start = f"{prefix}."
    for key in document:
        number = key[len(start) :]
        if not key.startswith(start) or not _NUMBER.fullmatch(number):
            continue
        if (same := found.setdefault(int(number), key)) != key:
            message = f"{key} has the same number as {same}"
            faults.append(Fault(where=document.place(key), message=message, hint="give it another"))
    if faults:
        raise SpecError(document.where, faults)
    return {number: document.entries[found[number]].value for number in sorted(found)}


def form_name(form: Form) -> str:
    """Return a form with its article, for a message."""
    return {Form.TEXT: "a text", Form.LIST: "a list", Form.DICT: "a dict", Form.ASK: "a question"}.get(
        form, "binary"
    )
