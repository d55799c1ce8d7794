"""Render the reference of m.json from the tables of manifest fields and of settings."""

from __future__ import annotations

import json
from collections.abc import Iterator

from buildstep.spec.imgmanifest_fields import FIELDS, Field
from buildstep.spec.json_schema import default_of
from buildstep.spec.settings import SETTINGS, Choices
from scripts.markdown import table
from scripts.rule_words import words


def page(choices: Choices) -> str:
    """Return docs/reference/m.json.md. choices: the names of all installers, formats and cleaners."""
    return "\n".join(_reference(choices)) + "\n"


_INTRODUCTION = """\
# m.json

<!-- Made by scripts/make_docs.py (`make docs`); a test fails when it is out of date. -->

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
  that is not given is a fault, and so is one of `-D` that the template does not have, or without a template.
  Write `{{ value | tojson }}` where a value may hold quotes; `words` parts a text as a shell does, `lines`
  into its lines that are not empty.
- `include` names files that come before this one, `profiles` has variants of it
  ([one manifest of several files](../how-to/one-manifest-of-several.md)).
- Relative paths are relative to the directory the command runs in; those of `include` to the file.
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
name. An unknown field is a fault. Characters are counted in UTF-16 units, as imgadm and IMGAPI count: an
emoji is two.
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
        default = "" if default_of(name) is None else f"`{json.dumps(default_of(name))}`"
        rows.append(
            (
                f"`{name}`" if setting.in_file else f"({name})",
                f"`{setting.flag}`" if setting.flag else "",
                f"`{setting.env}`",
                setting.about,
                words(setting.rule_for(choices)),
                "required" if setting.required else default,
            )
        )
    yield table(("key", "flag", "variable", "meaning", "value", "default"), rows)
    for name, setting in SETTINGS.items():
        entries = setting.rule.get("items", {})
        if properties := setting.rule.get("properties") or entries.get("properties"):
            yield f"\n### build.{name}{'[]' if entries else ''}\n"
            yield table(("key", "value"), ((f"`{key}`", words(rule)) for key, rule in properties.items()))
    yield _MANIFEST
    yield table(("field", "meaning", "value", ""), (_row(field) for field in FIELDS if field.who == "author"))
    properties = next(field for field in FIELDS if field.name == "requirements").emit["properties"]
    yield "\n### requirements\n"
    yield table(("key", "value"), ((f"`{key}`", words(rule)) for key, rule in properties.items()))
    yield _SET
    others = [field for field in FIELDS if field.who != "author"]
    yield table(
        ("field", "meaning", "set by"), ((f"`{field.name}`", field.about, field.who) for field in others)
    )
    yield _ORDER
    yield ", ".join(f"`{field.name}`" for field in FIELDS) + "."


def _row(field: Field) -> tuple[str, ...]:
    return (f"`{field.name}`", field.about, words(field.emit), "inherited" if field.inherited else "")
