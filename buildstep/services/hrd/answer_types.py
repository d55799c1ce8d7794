"""Whether an answer to a question is of its type, and what value it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from buildstep.errors import Fault
from buildstep.services.hrd import typed
from buildstep.services.hrd.patterns import LONGEST, begins

if TYPE_CHECKING:
    from buildstep.services.hrd.ask import Ask

_WORDS = {"yes": True, "y": True, "on": True, "no": False, "n": False, "off": False}
"""What a person may say for a bool beside what a file may."""


def check(ask: Ask, answer: str, where: str) -> Any:
    """See `Ask.check`."""
    try:
        if ask.type == "dropdown" and answer not in ask.choices:
            raise typed.Mistyped(
                f"{answer!r} is none of {', '.join(ask.choices)}", _near(answer, ask.choices)
            )
        if ask.pattern and not begins(ask.pattern, answer):
            long = f" (it has more than {LONGEST} characters)" if len(answer) > LONGEST else ""
            shown = "the answer" if ask.secret else repr(answer)
            raise typed.Mistyped(f"{shown} does not match {ask.pattern}{long}", "")
        value = _typed(ask, answer)
        if ask.type == "int":
            _in_range(ask, value)
    except typed.Mistyped as error:
        return Fault(where=where, message=error.message, hint=error.hint)
    return value


def _near(answer: str, choices: tuple[str, ...]) -> str:
    from buildstep.spec.schema import near

    return near(answer, choices)


def _typed(ask: Ask, answer: str) -> Any:
    if ask.type in ("int", "float") and not answer.strip():
        raise typed.Mistyped("is empty, not a number", "write digits")
    if ask.type == "int":
        return typed.integer(answer)
    if ask.type == "float":
        return typed.real(answer)
    if ask.type == "bool":
        word = _WORDS.get(answer.strip().lower())
        return typed.boolean(answer) if word is None else word
    if ask.type == "list":
        return typed.items(answer)
    if ask.type == "dict":
        return typed.table(", ".join(answer.split("\n")))
    return ask.prefix + answer


def _in_range(ask: Ask, value: int) -> None:
    if ask.minimum is not None and value < ask.minimum:
        raise typed.Mistyped(f"{value} is less than {ask.minimum}", "")
    if ask.maximum is not None and value > ask.maximum:
        raise typed.Mistyped(f"{value} is more than {ask.maximum}", "")
