"""Schemas: what keys a document has, of which types, in lines `key = tags` as schema.hrd of JumpScale 8."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault, SpecError
from buildstep.services.hrd import typed
from buildstep.services.hrd.ask import Ask
from buildstep.services.hrd.document import MOST, Document, told
from buildstep.services.hrd.patterns import begins, fault_of
from buildstep.services.hrd.references import HINTS
from buildstep.services.hrd.tags import Tag, tags_of
from buildstep.services.hrd.values import BLANKS, Value, Wrong, scan

TYPES: Final = {
    "str": typed.text,
    "string": typed.text,
    "multiline": typed.text,
    "password": typed.text,
    "int": typed.integer,
    "float": typed.real,
    "bool": typed.boolean,
    "dict": typed.table,
}
WITH_VALUE: Final = {
    "type": "type",
    "default": "default",
    "minval": "minimum",
    "minvalue": "minimum",
    "maxval": "maximum",
    "maxvalue": "maximum",
    "descr": "description",
    "regex": "pattern",
    "alias": "alias",
    "consume": "consume",
    "parent": "parent",
}
ALONE: Final = {"list": "is_list", "auto": "auto", "optional": "optional", "@ask": "ask"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Consume:
    """How many producers of a role a service uses: least, most (None for no limit)."""

    role: str
    least: int = 1
    most: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """What a schema says of one key. default: as text, None if it has none. consume, parent: the relation
    that the key's value names; auto: that it is made if it is not there."""

    key: str
    place: str
    type: str = "str"
    default: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""
    pattern: str = ""
    alias: str = ""
    consume: Consume | None = None
    parent: str = ""
    is_list: bool = False
    auto: bool = False
    optional: bool = False
    ask: bool = False

    def typed(self, value: Value) -> Any:
        """Return a value as this field's type. Raises typed.Mistyped."""
        if self.is_list:
            return [self._one(item) for item in typed.items(value)]
        return self._one(value)

    def _one(self, value: Any) -> Any:
        text = str(value) if isinstance(value, int | float) else value
        if self.type in ("int", "float") and isinstance(text, str) and not text.strip():
            raise typed.Mistyped("is empty, not a number", "write digits")
        found = TYPES[self.type](text)
        if isinstance(found, int | float) and not isinstance(found, bool):
            if self.minimum is not None and found < self.minimum:
                raise typed.Mistyped(f"is {found}, less than {self.minimum:g}", "")
            if self.maximum is not None and found > self.maximum:
                raise typed.Mistyped(f"is {found}, more than {self.maximum:g}", "")
        if self.pattern and isinstance(text, str) and not begins(self.pattern, text):
            raise typed.Mistyped(f"does not match {self.pattern}", "")
        return found

    def question(self) -> Ask:
        """Return the question that asks for this field's value."""
        kind = "list" if self.is_list else self.type
        least = None if self.minimum is None else int(self.minimum)
        most = None if self.maximum is None else int(self.maximum)
        return Ask(
            type=kind, description=self.description, default=self.default, pattern=self.pattern,
            minimum=least, maximum=most,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """What the keys of a document may be."""

    where: str
    fields: Mapping[str, Field]

    def check(self, document: Document, values: Mapping[str, Value] | None = None) -> dict[str, Any]:
        """Return the typed values of a document, defaults put in, by the keys of the schema.

        values: what `resolve` made of the document's (default: as they are written). A key may go by its
        alias. Raises SpecError with every fault: keys that the schema does not have, values of another type
        or out of their bounds, and keys that are missing and neither optional nor have a default.
        """
        given = document.values if values is None else values
        aliases = {field.alias: key for key, field in self.fields.items() if field.alias}
        found: dict[str, Any] = {}
        faults: list[Fault] = []
        for name, value in given.items():
            key = aliases.get(name, name)
            if (field := self.fields.get(key)) is None:
                hint = ""
                if len(faults) < HINTS:
                    from buildstep.spec.schema import near

                    hint = near(name, [*self.fields, *aliases])
                hint = hint or f"the schema is {self.where}"
                faults.append(_fault(document, name, f"the schema has no {name}", hint))
            elif key in found:
                faults.append(_fault(document, name, f"{key} is there under its alias too", "take one out"))
            else:
                try:
                    found[key] = field.typed(value)
                except typed.Mistyped as error:
                    found[key] = None
                    faults.append(_fault(document, name, f"{name} {error.message}", error.hint))
        for key, field in self.fields.items():
            if key in found:
                continue
            if field.default is not None:
                found[key] = field.typed(field.default)
            elif not field.optional and not field.auto:
                message = f"{key} is missing"
                faults.append(Fault(where=document.where, message=message, hint=f"{field.place} wants it"))
        if faults:
            raise SpecError(document.where, told(faults, document.where))
        return {key: found[key] for key in self.fields if key in found}


def _fault(document: Document, key: str, message: str, hint: str) -> Fault:
    return Fault(where=document.place(key), message=message, hint=hint)


def read_schema(path: Path) -> Schema:
    """Return the schema of a file; see `parse_schema`. Raises SpecError for one that cannot be read, too."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST).decode(errors="replace")
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise SpecError(str(path), [Fault(where=str(path), message=reason)]) from error
    return parse_schema(text, where=str(path))


def parse_schema(text: str, *, where: str = "schema") -> Schema:
    """Return a schema. A line is `key = tags`: `type:` (of TYPES), `default:`, `minval:`, `maxval:`,
    `descr:`, `regex:`, `alias:`, `consume:ROLE:LEAST:MOST`, `parent:ROLE`, and the words `list`, `optional`,
    `auto` and `@ask`. Raises SpecError with every fault."""
    fields: dict[str, Field] = {}
    faults: list[Fault] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        start = line.strip(f"{BLANKS}\r")
        if not start or start[0] == "#":
            continue
        at = f"{where}:{number}:{line.index(start[0]) + 1}"
        key, equals, rest = (part.strip(BLANKS) for part in start.partition("="))
        try:
            tags = tags_of(rest[: scan(rest).end])
            if not equals or not re.fullmatch(r"[\w.\-]+", key):
                raise Wrong(0, f"{start!r} is no line of a schema", "write key = type:str")
            if key in fields:
                raise Wrong(0, f"{key} is there already, at {fields[key].place}", "take one out")
            fields[key] = _field(key, at, tags)
        except Wrong as wrong:
            faults.append(Fault(where=at, message=wrong.message, hint=wrong.hint))
    faults += _same_names(fields)
    if faults:
        raise SpecError(where, faults)
    return Schema(where=where, fields=fields)


def _same_names(fields: Mapping[str, Field]) -> Sequence[Fault]:
    """Return a fault for each alias that is the name of another field."""
    known = dict.fromkeys(fields, "")
    faults = []
    for key, field in fields.items():
        if field.alias and known.setdefault(field.alias, key) != key:
            message = f"the alias {field.alias} of {key} is the name of another"
            faults.append(Fault(where=field.place, message=message, hint="choose another"))
    return faults


def _field(key: str, place: str, tags: list[Tag]) -> Field:
    found: dict[str, Any] = {}
    for tag in tags:
        table: Mapping[str, str] = ALONE if tag.alone else WITH_VALUE
        name = table.get(tag.name.lower())
        if name is None:
            from buildstep.spec.schema import near

            known = [*WITH_VALUE, *ALONE]
            raise Wrong(
                0, f"a schema has no tag {tag.name}", near(tag.name, known) or f"it has {', '.join(known)}"
            )
        if name in found:
            raise Wrong(0, f"the tag {tag.name} is there twice", "leave one out")
        found[name] = True if tag.alone else _tag_value(name, tag)
    field = Field(key=key, place=place, **found)
    if field.default is not None:
        try:
            field.typed(field.default)
        except typed.Mistyped as error:
            raise Wrong(0, f"the default of {key} {error.message}", error.hint) from None
    return field


def _tag_value(name: str, tag: Tag) -> Any:
    if name == "type":
        kind = tag.value.lower()
        if kind not in TYPES:
            raise Wrong(0, f"there is no type {tag.value}", f"there are {', '.join(TYPES)}")
        return kind
    if name in ("minimum", "maximum"):
        try:
            return typed.real(tag.value or "-")
        except typed.Mistyped as error:
            raise Wrong(0, f"{tag.name} {error.message}", error.hint) from None
    if name == "pattern":
        if reason := fault_of(tag.raw):
            raise Wrong(0, reason, "write a simpler one")
        return tag.raw
    if name == "consume":
        match = re.fullmatch(r"([\w.\-]+)(?::(\d{1,6}))?(?::(\d{1,6}))?", tag.value)
        if match is None:
            raise Wrong(0, f"`{tag.value}` is no role with two numbers", "write consume:redis:1:3")
        most = int(match[3]) if match[3] else None
        return Consume(role=match[1], least=int(match[2] or 1), most=most)
    return tag.value
