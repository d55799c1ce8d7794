"""A question in HRD: `@ASK` with its tags, and whether an answer is one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from buildstep.errors import Fault
from buildstep.services.hrd.escapes import spell
from buildstep.services.hrd.tags import Tag

TYPES: Final = (
    "str", "string", "int", "float", "bool", "list", "dict", "multiline", "dropdown", "password",
)  # fmt: skip
TAGS: Final = {
    "type": "type",
    "descr": "description",
    "default": "default",
    "regex": "pattern",
    "retry": "retry",
    "minvalue": "minimum",
    "maxvalue": "maximum",
    "dropdownvals": "choices",
    "name": "name",
}
"""The tags of a question, in small letters, and the field that each fills."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A question that must be answered before its key has a value.

    default: None if it has none. pattern: a regular expression that the beginning of the answer must match.
    retry: how often a person is asked again, None for no limit. prefix: text that goes before the answer.
    """

    type: str = "str"
    description: str = ""
    default: str | None = None
    pattern: str = ""
    retry: int | None = None
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    name: str = ""
    prefix: str = ""

    def __str__(self) -> str:
        r"""Return it as it is written in a file, on one line. Raises ValueError for what cannot be said."""
        words = [f"{self.prefix}@ASK"]
        for tag, field in TAGS.items():
            value = getattr(self, field)
            if field == "choices":
                value = ",".join(value)
            shown = {"minvalue": "minValue", "maxvalue": "maxValue"}.get(tag, tag)
            if field == "type" or (value is not None and (value != "" or field == "default")):
                words.append(f"{shown}:{_spell_pattern(value) if field == 'pattern' else spell(str(value))}")
        return " ".join(words)

    @property
    def secret(self) -> bool:
        """Whether what is typed is not shown."""
        return self.type == "password"

    def check(self, answer: str, where: str = "answer") -> Any:
        """Return the typed value of an answer: a text, int, float, bool, list or dict; or a Fault.

        An answer is a text and nothing else: nothing in it is run. where: for the fault.
        """
        from buildstep.services.hrd.answer_types import check

        return check(self, answer, where)


def _spell_pattern(text: str) -> str:
    """Return a regular expression as a tag's value: escapes of HRD are not read in it."""
    if "'" in text or "\n" in text:
        raise ValueError("a regular expression with an apostrophe or a newline cannot be said in HRD")
    return f"'{text}'"


def code_at(text: str) -> int | None:
    """Return where a text has what the old parser gave to Python to be evaluated: `{{ ... }}`."""
    at = text.find("{{")
    return at if at >= 0 and text.find("}}", at + 2) >= 0 else None


def ask_of(prefix: str, tags: list[Tag]) -> tuple[Ask, list[tuple[int, Fault]]]:
    """Return the question that some tags make, and what is wrong: offset and fault, without place."""
    fields: dict[str, Any] = {"prefix": prefix}
    faults: list[tuple[int, Fault]] = []

    def wrong(at: int, message: str, hint: str) -> None:
        faults.append((at, Fault(where="", message=message, hint=hint)))

    for tag in tags:
        field = TAGS.get(tag.name.lower())
        if field is None:
            from buildstep.spec.schema import near

            wrong(tag.at, f"@ASK has no tag {tag.name}", near(tag.name, TAGS) or f"it has {', '.join(TAGS)}")
        elif field in fields:
            wrong(tag.at, f"the tag {tag.name} is there twice", "leave one out")
        else:
            _fill(fields, field, tag, wrong)
    ask = Ask(**fields)
    if ask.type == "dropdown" and not ask.choices:
        wrong(0, "a dropdown without dropdownvals", "add dropdownvals:one,two")
    if ask.minimum is not None and ask.maximum is not None and ask.minimum > ask.maximum:
        wrong(0, f"minValue {ask.minimum} is more than maxValue {ask.maximum}", "swap them")
    return ask, faults


def _fill(fields: dict[str, Any], field: str, tag: Tag, wrong: Any) -> None:
    value: Any = tag.value
    if field == "type":
        value = value.lower()
        if value not in TYPES:
            from buildstep.spec.schema import near

            wrong(tag.at, f"@ASK has no type {tag.value}", near(value, TYPES) or f"it has {', '.join(TYPES)}")
            return
    elif field == "description":
        value = value.replace("__", " ")
    elif field in ("retry", "minimum", "maximum"):
        if not re.fullmatch(r"[+-]?\d{1,18}", value, re.ASCII):
            wrong(tag.at, f"{tag.name} is no whole number: {tag.value}", "write digits")
            return
        value = int(value)
    elif field == "choices":
        value = tuple(choice for part in value.split(",") if (choice := part.strip()))
    elif field == "pattern":
        from buildstep.services.hrd.patterns import fault_of

        value = tag.raw
        if reason := fault_of(value):
            wrong(tag.at, reason, "write a simpler one")
            return
    fields[field] = value
