"""Say in words what a rule of buildstep.spec.schema asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from buildstep.spec.schema import Rule, type_names


def words(rule: Rule) -> str:
    """Return a rule as a phrase for the reference."""
    if "enum" in rule:
        shown = [f"`{option if isinstance(option, str) else json.dumps(option)}`" for option in rule["enum"]]
        return shown[0] if len(shown) == 1 else "one of " + ", ".join(shown)
    types = rule.get("type", ())
    # A pattern already says that it is a string.
    parts = [rule["$comment"]] if rule.get("$comment") else []
    if not parts or types != "string":
        parts.insert(0, type_names([types] if isinstance(types, str) else types) or "anything")
    parts += [phrase(rule[key]) for key, phrase in _PHRASES.items() if key in rule]
    if properties := rule.get("properties"):
        others = "" if rule.get("additionalProperties") is False else ", and others"
        parts.append("keys " + ", ".join(f"`{name}`" for name in properties) + others)
    return "; ".join(part for part in parts if part)


_PHRASES: Mapping[str, Callable[[Any], str]] = {
    "maxLength": lambda n: f"at most {n} characters",
    "minimum": lambda n: f"at least {n}",
    "maximum": lambda n: f"at most {n}",
    "items": lambda rule: f"each {words(rule)}",
    "minItems": lambda n: f"at least {n}",
    "maxItems": lambda n: f"at most {n}",
    "propertyNames": lambda rule: f"keys: {words(rule)}",
    "additionalProperties": lambda rule: f"values: {words(rule)}" if rule else "",
}
