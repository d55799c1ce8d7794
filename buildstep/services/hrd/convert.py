"""HRD to and from JSON and TOML. What the other form cannot hold is told."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from buildstep.errors import Fault, SpecError
from buildstep.services.hrd.ask import Ask
from buildstep.services.hrd.document import Document, told
from buildstep.services.hrd.entries import Entry
from buildstep.services.hrd.values import Value
from buildstep.system.text import json_halves, plural

BINARY = "$binary"
ASK = "$ask"
"""The only key of an object that stands for a binary value (as base64), and for a question (its tags)."""


class Converted(NamedTuple):
    """A text in another form, and notes on what it does not have."""

    text: str
    notes: list[str]


def to_json(document: Document) -> Converted:
    """Return a JSON object with the keys as they are, dots and all; see `_plain` for the values.

    `from_json` of it gives an equal document. Raises SpecError for what JSON would hold as something else.
    """
    value = _object(document)
    text = json_halves(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
    return Converted(text + "\n", _lost(document))


def to_toml(document: Document) -> Converted:
    """Return TOML with the keys as they are, in quotes: `a` and `a.b` can both be there. As `to_json`."""
    lines = [f"{_quoted(key)} = {_toml(value)}\n" for key, value in _object(document).items()]
    return Converted("".join(lines), _lost(document))


def from_json(text: str, *, where: str = "JSON") -> Document:
    """Return what a JSON object says: see `from_object`. Raises SpecError, also for text that is no JSON."""
    faults: list[Fault] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(found)
        if len(made) < len(found):
            seen: set[str] = set()
            twice = sorted({key for key, _ in found if key in seen or seen.add(key)})  # type: ignore[func-returns-value]
            faults.append(Fault(where=where, message=f"an object has twice: {', '.join(twice)}"))
        return made

    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise SpecError(where, [Fault(where=where, message=f"this is no JSON: {error}")]) from None
    if faults:
        raise SpecError(where, faults)
    return from_object(value, where=where)


def from_toml(text: str, *, where: str = "TOML") -> Document:
    """Return what a TOML file says: see `from_object`. Raises SpecError, also for text that is no TOML."""
    try:
        value = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(where, [Fault(where=where, message=f"this is no TOML: {error}")]) from None
    return from_object(value, where=where)


def from_object(value: Any, *, where: str) -> Document:
    """Return the document of a mapping, as JSON and TOML have it.

    Numbers, truths and dates become texts, as HRD has them. A mapping that holds no other becomes a dict; of
    one that does, the keys become `outer.inner`. Raises SpecError with all that HRD cannot hold.
    """
    faults: list[Fault] = []
    found: dict[str, Value] = {}
    if isinstance(value, Mapping):
        _flatten(value, "", where, found, faults)
    else:
        faults.append(Fault(where=where, message="is no object with keys"))
    if faults:
        raise SpecError(where, told(faults, where))
    return Document.of(found, where=where)


# To the other form.


def _object(document: Document) -> dict[str, Any]:
    found: dict[str, Any] = {}
    faults = []
    for key, value in document.values.items():
        if isinstance(value, dict) and (BINARY in value or ASK in value):
            message = f"{key} has a key {BINARY} or {ASK}, which means something else there"
            faults.append(Fault(where=document.place(key), message=message, hint="name it otherwise"))
        found[key] = _plain(value)
    if faults:
        raise SpecError(document.where, faults)
    return found


def _plain(value: Value) -> Any:
    """Return a value as JSON has it: texts, lists and objects; a question and bytes as objects of one key."""
    if isinstance(value, bytes):
        return {BINARY: base64.b64encode(value).decode()}
    if isinstance(value, Ask):
        empty = {name: (None,) if name == "default" else ("", None, ()) for name in Ask.__dataclass_fields__}
        return {ASK: {name: part for name, part in asdict(value).items() if part not in empty[name]}}
    return value


def _lost(document: Document) -> list[str]:
    comments = sum(
        bool(node.note) if isinstance(node, Entry) else bool(node.raw.strip()) for node in document.nodes
    )
    return [f"{plural(comments, 'comment')} of {document.where} left out"] if comments else []


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but for a DEL, which HRD cannot hold either.
    return json.dumps(text, ensure_ascii=False)


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_quoted(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


# From the other form.


def _flatten(
    value: Mapping[str, Any], before: str, where: str, found: dict[str, Value], faults: list[Fault]
) -> None:
    """Put the values of a mapping into `found`; before: what their keys begin with."""
    waiting = [(before, value)]
    while waiting:
        start, mapping = waiting.pop()
        deeper = []
        for name, item in mapping.items():
            key = f"{start}{name}"
            if isinstance(item, Mapping) and not {BINARY, ASK} & set(item) and _holds_mapping(item):
                deeper.append((f"{key}.", item))
                continue
            if key in found:
                faults.append(
                    Fault(where=f"{where}: {key}", message="is there twice", hint="name one otherwise")
                )
            try:
                found[key] = _value(item)
            except ValueError as error:
                faults.append(Fault(where=f"{where}: {key}", message=str(error)))
        waiting += reversed(deeper)


def _holds_mapping(value: Mapping[str, Any]) -> bool:
    return any(isinstance(item, Mapping) for item in value.values())


def _value(value: Any) -> Value:
    if isinstance(value, Mapping):
        if set(value) == {BINARY}:
            try:
                return base64.b64decode(str(value[BINARY]), validate=True)
            except binascii.Error:
                raise ValueError(f"{BINARY} is no base64") from None
        if set(value) == {ASK}:
            return _question(value[ASK])
        if BINARY in value or ASK in value:
            raise ValueError(f"{BINARY} and {ASK} stand alone")
        return {name: _item(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_item(item) for item in value]
    return _text(value)


def _item(value: Any) -> Any:
    if isinstance(value, list):
        return [one if type(one) in (int, float) else _text(one) for one in value]
    return _text(value)


def _text(value: Any) -> str:
    """Return a single value as the text that HRD has for it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    what = {type(None): "null", list: "a list so deep", dict: "an object in a list"}.get(type(value))
    raise ValueError(f"HRD has no {what or type(value).__name__}")


def _question(value: Any) -> Ask:
    fields = dict(value) if isinstance(value, Mapping) else {"": value}
    known = Ask.__dataclass_fields__
    for name, part in fields.items():
        if name not in known:
            raise ValueError(f"{ASK} has no {name}; it has {', '.join(known)}")
        wanted = {"retry": int, "minimum": int, "maximum": int, "choices": list}.get(name, str)
        if not isinstance(part, wanted) or isinstance(part, bool):
            raise ValueError(f"{name} of {ASK} is no {wanted.__name__}")
    if "choices" in fields:
        fields["choices"] = tuple(map(str, fields["choices"]))
    ask = Ask(**fields)
    if not re.fullmatch(r"[^'#\n]*", ask.prefix):
        raise ValueError(f"prefix of {ASK} has an apostrophe, a # or a newline")
    return ask
