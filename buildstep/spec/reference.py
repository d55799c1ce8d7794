"""What the tables of the manifest and of the settings say, as a schema and as a reference."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from buildstep.spec import imgmanifest, schema
from buildstep.spec.fields import SETTINGS, BuildSpec, Choices, to_data
from buildstep.spec.imgmanifest_fields import FIELDS, Field
from buildstep.spec.schema import Rule

SCHEMA_KEY: Final[Rule] = {"type": "string", "description": "For editors; ignored."}


def json_schema(choices: Choices) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of an m.json, for editors and other checkers.

    Whatever it refuses, `load` refuses. `load` also judges what a schema cannot say: how fields
    depend on each other, the calendar, and whether the proto directory is there.
    """
    fields = {field.name: {**field.emit, "description": field.about} for field in imgmanifest.AUTHOR_FIELDS}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "m.json",
        "description": "An image manifest (imgmanifest v2) and how to build the image.",
        **schema.record(
            {"$schema": SCHEMA_KEY, **fields, "build": build_rule(choices)},
            required=("name", "version"),
        ),
    }


def build_rule(choices: Choices) -> Rule:
    """The rule of the `build` key."""
    properties: dict[str, Rule] = {}
    for name, setting in SETTINGS.items():
        if setting.in_file:
            properties[name] = {**setting.rule_for(choices), "description": setting.about}
            if (default := _default(name)) is not None:
                properties[name] = {**properties[name], "default": default}
    return {**schema.record(properties), "description": "How to build the image; not part of it."}


def _default(name: str) -> object:
    field = BuildSpec.__dataclass_fields__[name]
    if field.default_factory is not dataclasses.MISSING:
        return to_data(field.default_factory())
    return None if field.default is dataclasses.MISSING else to_data(field.default)


def reference_markdown(choices: Choices) -> str:
    """The reference of m.json."""
    return "\n".join(_reference(choices)) + "\n"


_INTRODUCTION = """\
# m.json

<!-- Made by buildstep.spec.reference_markdown; a test tells when it is out of date. -->

An m.json describes an image and how to build it: an image manifest (imgmanifest v2) and one key of our own,
`build`, which does not become part of the image's manifest. `name` and `version` have to be there.

    {"name": "hello", "version": "1.0.0", "os": "linux", "type": "other",
     "build": {"image": "mmdebstrap:bookworm", "packages": ["nginx-light"]}}

All faults are reported together, each with its place, before anything is touched. A key `$schema` is ignored;
the JSON Schema for it says what is said here, except how fields depend on each other.

- `-m` takes the path of a file, JSON text that starts with `{`, or `-` for standard input.
- A file whose name ends in `.j2` is a Jinja2 template. It is given `stamp`
  (`<branch>-<YYYYMMDDTHHMMSSZ>-g<short>[-dirty]`, of the time in `SOURCE_DATE_EPOCH` if that is set), `git`
  (`branch`, `commit`, `short`, `dirty`, `tag`), `env`, and what `-D key=value` defines, which wins. A name
  that is not given is a fault. Write `{{ value | tojson }}` where a value may hold quotes.
- Relative paths are relative to the directory the command runs in.
- `version`, and `name` unless there is an `image_prefix`, become parts of file names: no `/` in them.
"""

_BUILD = """
## build

A setting is taken from its flag, else from the file, else from its variable, else from its default. An empty
variable counts as not set. A list as text is parted by commas (`exclude` is one pattern), or JSON; an object
as text is JSON; a boolean as text is 1, true, yes, on or 0, false, no, off.
"""

_MANIFEST = """
## Fields of the manifest

The limits are those of the IMGAPI guide, to which we hold what we write. Fields marked *inherited* come from
the base image if they are not given; `requirements` are merged with the base's key by key, and `networks` by
name. An unknown field is a fault.
"""

_SET = """
Set by the build or by the image repository, and a fault in an m.json:
"""

_ORDER = """
## The manifest we write

Top-level fields come in this order, entries of `files` start with `size`, `compression`, `sha1`, and the keys
of every other object are sorted, indented by two spaces, so that equal manifests are equal files:
"""


def _reference(choices: Choices) -> Iterator[str]:
    yield _INTRODUCTION + _BUILD
    rows = []
    for name, setting in SETTINGS.items():
        default = "" if _default(name) is None else f"`{json.dumps(_default(name))}`"
        rows.append(
            (
                f"`{name}`" if setting.in_file else f"({name})",
                f"`{setting.flag}`" if setting.flag else "",
                f"`{setting.env}`",
                setting.about,
                schema.words(setting.rule_for(choices)),
                "required" if setting.required else default,
            )
        )
    yield from _table(("key", "flag", "variable", "meaning", "value", "default"), rows)
    for name, setting in SETTINGS.items():
        if properties := setting.rule.get("properties"):
            yield f"\n### build.{name}\n"
            yield from _table(
                ("key", "value"), ((f"`{key}`", schema.words(rule)) for key, rule in properties.items())
            )
    yield _MANIFEST
    yield from _table(("field", "meaning", "value", ""), (_row(field) for field in imgmanifest.AUTHOR_FIELDS))
    properties = next(field for field in FIELDS if field.name == "requirements").emit["properties"]
    yield "\n### requirements\n"
    yield from _table(
        ("key", "value"), ((f"`{key}`", schema.words(rule)) for key, rule in properties.items())
    )
    yield _SET
    others = [field for field in FIELDS if field.who != "author"]
    yield from _table(
        ("field", "meaning", "set by"), ((f"`{field.name}`", field.about, field.who) for field in others)
    )
    yield _ORDER
    yield ", ".join(f"`{field.name}`" for field in FIELDS) + "."


def _row(field: Field) -> tuple[str, ...]:
    return (f"`{field.name}`", field.about, schema.words(field.emit), "inherited" if field.inherited else "")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
