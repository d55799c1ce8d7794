"""The JSON Schema of m.json, made from the tables of manifest fields and of settings."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from buildstep.spec import schema
from buildstep.spec.compose import INCLUDE, INCLUDE_RULE, PROFILES, PROFILES_RULE
from buildstep.spec.fields import BuildSpec, to_data
from buildstep.spec.imgmanifest_fields import FIELDS
from buildstep.spec.schema import Rule
from buildstep.spec.settings import SETTINGS, Choices

SCHEMA_KEY: Final[Rule] = {"type": "string", "description": "For editors; ignored."}


def json_schema(choices: Choices) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of an m.json, for editors and other checkers.

    Whatever it refuses, `load` refuses. `load` also checks what a schema cannot say: how fields
    depend on each other, the calendar, and whether the proto directory exists.
    """
    fields = {it.name: {**it.emit, "description": it.about} for it in FIELDS if it.who == "author"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "m.json",
        "description": "An image manifest (imgmanifest v2) and how to build the image.",
        **_with_additions(
            schema.record(
                {
                    "$schema": SCHEMA_KEY,
                    INCLUDE: INCLUDE_RULE,
                    PROFILES: PROFILES_RULE,
                    **fields,
                    "build": build_rule(choices),
                }
            )
        ),
        # What is put together of several parts may have these from any of them.
        "anyOf": [{"required": ["name", "version"]}, {"required": [INCLUDE]}, {"required": [PROFILES]}],
    }


def _with_additions(rule: Rule) -> Rule:
    """Return the rule of an object in which each list may also be added to, as `NAME+`, at any depth."""
    properties: dict[str, Rule] = {}
    for name, part in rule["properties"].items():
        properties[name] = _with_additions(part) if "properties" in part else part
        if part.get("type") == "array":
            more = f"Added to {name} of what this comes after."
            properties[f"{name}+"] = {"type": "array", "items": part["items"], "description": more}
    return {**rule, "properties": properties}


def build_rule(choices: Choices) -> Rule:
    """Return the rule for the value of the `build` key."""
    properties: dict[str, Rule] = {}
    for name, setting in SETTINGS.items():
        if setting.in_file:
            properties[name] = {**setting.rule_for(choices), "description": setting.about}
            if (default := default_of(name)) is not None:
                properties[name] = {**properties[name], "default": default}
    return {**schema.record(properties), "description": "How to build the image; not part of it."}


def default_of(name: str) -> object:
    """Return the default of a setting as JSON; None where it has none."""
    field = BuildSpec.__dataclass_fields__[name]
    if field.default_factory is not dataclasses.MISSING:
        return to_data(field.default_factory())
    return None if field.default is dataclasses.MISSING else to_data(field.default)
