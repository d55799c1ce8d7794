"""Rules for JSON values: one fragment of JSON Schema checks, publishes and explains a field.

Tables of fields hold these fragments. `check` interprets the keywords used here, so that what we
refuse and what the published schema refuses cannot drift apart; `words` puts one into a sentence.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault, SpecError
from buildstep.system.text import json_halves

Rule = dict[str, Any]  # never changed once made; a dict, so that two can be joined

_NAMES: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    tuple: "array",
    dict: "object",
}
HTTP: Final = "[Hh][Tt][Tt][Pp][Ss]?"
"""A pattern of a web address's scheme, which may be in capitals (RFC 3986, 3.1)."""
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


# Making rules.


def text(pattern: str = "", *, say: str = "", most: int | None = None, least: int = 1) -> Rule:
    """Return the rule of a string. pattern: what all of it must match; say: the same in words; most: UTF-16
    units (`units`). A JSON Schema counts code points: it never refuses what this lets pass."""
    rule: dict[str, Any] = {"type": "string"}
    if least:
        rule["minLength"] = least
    if most is not None:
        rule["maxLength"] = most
    if pattern:
        # `$` alone lets a trailing line end pass in Python; in ECMA 262 the look-ahead is a no-op.
        rule |= {"pattern": f"^(?:{pattern})$(?!\\n)", "$comment": say}
    return rule


def choice(names: Iterable[object]) -> Rule:
    """Return the rule of one of these values."""
    return {"enum": list(names)}


def integer(least: int | None = None, most: int | None = None) -> Rule:
    """Return the rule of a whole number in a range; 2.0 is one, as in JSON Schema."""
    limits = {"minimum": least, "maximum": most}
    return {"type": "integer"} | {key: value for key, value in limits.items() if value is not None}


def array(items: Rule, *, most: int | None = None, least: int = 0, unique: bool = False) -> Rule:
    """Return the rule of a list whose entries all keep one rule."""
    rule: dict[str, Any] = {"type": "array", "items": items}
    if least:
        rule["minItems"] = least
    if most is not None:
        rule["maxItems"] = most
    if unique:
        rule["uniqueItems"] = True
    return rule


def mapping(values: Rule, *, keys: Rule | None = None, least: int = 0) -> Rule:
    """Return the rule of an object with free keys."""
    rule: dict[str, Any] = {"type": "object", "additionalProperties": values}
    if keys is not None:
        rule["propertyNames"] = keys
    if least:
        rule["minProperties"] = least
    return rule


def record(properties: Mapping[str, Rule], *, required: Sequence[str] = (), extra: bool = False) -> Rule:
    """Return the rule of an object with known keys."""
    rule: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if required:
        rule["required"] = list(required)
    if not extra:
        rule["additionalProperties"] = False
    return rule


BOOLEAN: Rule = {"type": "boolean"}
ANYTHING: Rule = {}


# Checking.


def check(value: object, rule: Rule, where: str) -> list[Fault]:
    """Return every fault of a JSON value under a rule, each with its path; never raises."""
    return list(_faults(value, rule, where))


def at(where: str, key: str | int) -> str:
    """Return the JSON path one step further down."""
    if isinstance(key, int):
        return f"{where}[{key}]"
    return f"{where}.{key}" if _IDENTIFIER.fullmatch(key) else f"{where}[{json.dumps(key)}]"


def near(word: str, known: Iterable[str]) -> str:
    """Return a hint with the known word that is most like this one, or an empty text."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{found[0]}"?' if found else ""


def is_type(value: object, name: str) -> bool:
    """Return whether a value is of a JSON Schema type."""
    actual = _NAMES.get(type(value), "")
    if name == "integer":
        return actual == "integer" or (isinstance(value, float) and value.is_integer())
    return actual == name or (name == "number" and actual == "integer")


def _faults(value: object, rule: Rule, where: str) -> Iterator[Fault]:
    if not rule:  # free values, such as tags, may be nested deeper than we could follow
        return
    types = rule.get("type", ())
    types = [types] if isinstance(types, str) else types
    if types and not any(is_type(value, name) for name in types):
        actual = _NAMES.get(type(value), type(value).__name__)
        yield Fault(where=where, message=f"must be {type_names(types)}, not {actual}")
        return
    if "enum" in rule and not any(_same(value, option) for option in rule["enum"]):
        yield _not_an_option(value, rule["enum"], where)
    if isinstance(value, str):
        yield from _text_faults(value, rule, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number_faults(value, rule, where)
    elif isinstance(value, list | tuple):
        yield from _array_faults(value, rule, where)
    elif isinstance(value, dict):
        yield from _object_faults(value, rule, where)


def _same(left: object, right: object) -> bool:
    # In Python True == 1; in JSON they differ.
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _not_an_option(value: object, options: Sequence[object], where: str) -> Fault:
    names = [option for option in options if isinstance(option, str)]
    hint = near(value, names) if isinstance(value, str) else ""
    return Fault(where=where, message=f"{_shown(value)} is not {_listed(options)}", hint=hint)


def _text_faults(value: str, rule: Rule, where: str) -> Iterator[Fault]:
    if len(value) < rule.get("minLength", 0):
        yield Fault(where=where, message="must not be empty")
        return
    if "maxLength" in rule and (fault := too_long(value, rule["maxLength"])):
        yield Fault(where=where, message=fault)
    if "pattern" in rule and not re.search(rule["pattern"], value):
        yield Fault(where=where, message=f"{_shown(value)} is not {rule['$comment']}")


def units(value: str) -> int:
    """Return the length of a text in UTF-16 units, as JavaScript and so imgadm and IMGAPI count: a character
    beyond U+FFFF, such as an emoji, is two."""
    return len(value.encode("utf-16-le", "surrogatepass")) // 2


def too_long(value: str, most: int, what: str = "") -> str:
    """Return what is wrong with a text of more than `most` UTF-16 units; nothing if it is not too long.

    what: more about the text, for the message.
    """
    length = units(value)
    if length <= most:
        return ""
    how = "" if length == len(value) else " (some count as two, as imgadm counts in UTF-16)"
    return f"is {length} characters{what} long{how}, at most {most} are allowed"


def _number_faults(value: float, rule: Rule, where: str) -> Iterator[Fault]:
    least, most = rule.get("minimum"), rule.get("maximum")
    if least is not None and not value >= least:  # NaN is not at least anything
        yield Fault(where=where, message=f"{value} is less than {least}")
    if most is not None and value > most:
        yield Fault(where=where, message=f"{value} is more than {most}")


def _array_faults(value: Sequence[object], rule: Rule, where: str) -> Iterator[Fault]:
    if len(value) < rule.get("minItems", 0):
        yield Fault(where=where, message=f"needs at least {rule['minItems']} of them")
    if len(value) > rule.get("maxItems", len(value)):
        yield Fault(where=where, message=f"has {len(value)} entries, at most {rule['maxItems']} are allowed")
    for index, item in enumerate(value):
        if "items" in rule:
            yield from _faults(item, rule["items"], at(where, index))
        if rule.get("uniqueItems") and any(_same(item, before) for before in value[:index]):
            yield Fault(where=at(where, index), message=f"{_shown(item)} is given twice")


def _object_faults(value: Mapping[str, object], rule: Rule, where: str) -> Iterator[Fault]:
    if len(value) < rule.get("minProperties", 0):
        yield Fault(where=where, message="must not be empty")
    known: Mapping[str, Rule] = rule.get("properties", {})
    others = rule.get("additionalProperties", ANYTHING)
    for name in rule.get("required", ()):
        if name not in value:
            yield Fault(where=at(where, name), message="is required")
    for name, item in value.items():
        if "propertyNames" in rule:
            yield from _faults(name, rule["propertyNames"], at(where, name))
        if name in known:
            yield from _faults(item, known[name], at(where, name))
        elif others is False:
            yield Fault(where=at(where, name), message="is not a known key", hint=near(name, known))
        else:
            yield from _faults(item, others, at(where, name))


def type_names(types: Collection[str]) -> str:
    """Return types of JSON Schema as a phrase: a string or an object."""
    return " or ".join(
        f"an {name}" if name[0] in "aeio" else f"a {name}" if name != "null" else name for name in types
    )


def _listed(options: Sequence[object]) -> str:
    shown = [option if isinstance(option, str) else json.dumps(option) for option in options]
    return shown[0] if len(shown) == 1 else "one of " + ", ".join(shown)


_CREDENTIALS = re.compile(r"//[^/@\s\"]+@")
"""Who calls, and often the password, in a URL: logs of CI are read by many."""


def _shown(value: object) -> str:
    shown = json.dumps(value, ensure_ascii=True, default=str)
    shown = _CREDENTIALS.sub("//***@", shown)
    return shown if len(shown) <= 60 else shown[:57] + "..."  # a fault stays one line


# Reading and writing JSON.


def parse(source_text: str, source: str) -> object:
    """Return JSON text as data. Errors: SpecError, also for NaN, deep nesting and a key given twice."""
    try:
        data: object = json.loads(
            source_text, object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite
        )
        if too_deep(data):
            raise ValueError("is nested too deeply")
        return data
    except json.JSONDecodeError as error:
        fault = Fault(where=f"line {error.lineno} column {error.colno}", message=error.msg)
    except (ValueError, RecursionError) as error:
        fault = Fault(where="$", message=str(error))
    raise SpecError(source, [fault])


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {json.dumps(twice)} is given twice")
    return found


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):  # NaN and Infinity are not JSON; 1e999 would become one
        raise ValueError(f"{number} is not a number in JSON")
    return value


def too_deep(data: object, limit: int = 64) -> bool:
    """Return whether data is nested so deeply that recursion over it could fail."""
    level = [data]
    for _ in range(limit):
        level = [child for value in level for child in _children(value)]
    return bool(level)


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def render(data: object) -> str:
    """Return JSON text: indented by two, with a line end, other characters than ASCII as they are."""
    shown = json.dumps(data, indent=2, ensure_ascii=False)
    return json_halves(shown) + "\n"


def read_file(path: str) -> str:
    """Return the text of a file. Errors: SpecError when it cannot be read or is not UTF-8."""
    return text_of(read_bytes(path), path)


def read_bytes(path: str) -> bytes:
    """Return what is in a file. Errors: SpecError when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:  # a path no file can have
        reason = str(error)
    raise SpecError(path, [Fault(where=path, message=reason)])


def text_of(data: bytes, path: str) -> str:
    """Return bytes as text with Unix line ends. Errors: SpecError when they are not UTF-8."""
    try:
        return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except ValueError as error:
        raise SpecError(path, [Fault(where=path, message=str(error))]) from error
