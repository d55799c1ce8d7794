"""A recipe: what `buildstep files build` makes a tree of, read and checked before anything is done.

A file with JSON or TOML, or a template of JSON (`.j2`). What it says of the build is an m.json's `build`; the
rest says what is laid into the image before its commands run, and what of it is the result.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault, SpecError
from buildstep.spec import schema
from buildstep.spec.document import read_document
from buildstep.spec.rules import OUTPUT
from buildstep.spec.run_rules import PLAIN_RUN
from buildstep.spec.schema import BOOLEAN, array, at, record, text
from buildstep.spec.settings import SETTINGS

_PATH = text(r"[^\x00-\x1f\x7f]+", say="a path")
_URL = text(
    r"(https?|git)://[^\s@?#/]+/[^\s?#]*|file:///[^\s?#]*|ssh://([^\s@:/]+@)?[^\s@/]+/[^\s?#]*"
    r"|[A-Za-z0-9._]+@[A-Za-z0-9.-]+:[^\s?#:]+|/[^\x00-\x1f]*",
    say="the URL of a git repository, without a password",
)
_COMMIT = text(r"[0-9a-f]{40}|[0-9a-f]{64}", say="a whole commit: 40 hex digits")
_BRANCH = text(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*", say="the name of a branch or a tag")

SOURCE: Final = record(
    {
        "path": _PATH,
        "git": _URL,
        "commit": _COMMIT,
        "branch": _BRANCH,
        "link": _PATH,
        "source": _PATH,
        "dest": text(r"/[^\x00-\x1f\x7f]*", say="an absolute path in the image"),
    },
    required=["dest"],
)
RULE: Final = record(
    {
        "name": text(r"[A-Za-z0-9][A-Za-z0-9._-]*", say="made of A-Z a-z 0-9 . _ -"),
        "version": text(r"[A-Za-z0-9][A-Za-z0-9._-]*", say="made of A-Z a-z 0-9 . _ -"),
        "image": SETTINGS["image"].rule,
        "sources": array(SOURCE),
        "packages": SETTINGS["packages"].rule,
        "run": PLAIN_RUN,
        "network": BOOLEAN,
        "env": SETTINGS["run_options"].rule["properties"]["env"],
        "outputs": array(OUTPUT, least=1),
        "exclude": array(text(r"/[^\x00-\x1f\x7f]*", say="an anchored pattern such as /opt/app/**/*.pyc")),
        "strip": SETTINGS["strip"].rule,
    },
    required=["name", "image", "outputs"],
)
"""What a recipe may hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What is laid at a path of the image: a copy from this machine or a git repository, or a link.

    path: of this machine, absolute; git: a URL, of which `commit`, or what `branch` is now; link: a link's
    text. source: the part of it that is taken, `*` at the end for each entry of a directory; plain: only
    entries that are no directories. login, password: for the server, which has them by no command line.
    """

    dest: str
    path: Path | None = None
    git: str = ""
    commit: str = ""
    branch: str = ""
    link: str = ""
    source: str = ""
    plain: bool = False
    login: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A checked recipe. build: the `build` object of an m.json with the same meaning."""

    name: str
    version: str
    source: str
    sources: tuple[Source, ...]
    build: Mapping[str, Any]
    defines: Mapping[str, str] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, Any]:
        """Return the m.json of the build that makes the result."""
        return {
            "name": self.name,
            "version": self.version,
            "os": "linux",
            "type": "other",
            "build": self.build,
        }


def read(path: Path, *, environ: Mapping[str, str], defines: Mapping[str, str]) -> Recipe:
    """Return the recipe in a file; relative paths are relative to its folder. defines: values for a template.

    Raises SpecError with every fault.
    """
    if path.name.endswith(".toml"):
        value = _toml(path)
        if defines:
            fault = Fault(where="-D", message="values are for templates, whose names end in .j2")
            raise SpecError("command line", [fault])
    else:
        value = read_document(str(path), cwd=Path.cwd(), environ=environ, defines=defines).value
    faults = schema.check(value, RULE, "$")
    if not faults:
        assert isinstance(value, dict)
        faults = list(_relations(value, path.parent))
    if faults:
        raise SpecError(str(path), faults)
    assert isinstance(value, dict)
    return _recipe(value, path)


def _toml(path: Path) -> object:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(str(path), [Fault(where="", message=error.strerror or str(error))]) from error
    except ValueError as error:
        raise SpecError(str(path), [Fault(where="", message=f"is not TOML: {error}")]) from error


def _relations(value: Mapping[str, Any], folder: Path) -> Iterator[Fault]:
    for index, row in enumerate(value.get("sources", ())):
        where = at("$.sources", index)
        kinds = [name for name in ("path", "git", "link") if name in row]
        if len(kinds) != 1:
            yield Fault(where=where, message="needs one of path, git and link")
            continue
        if leaves(row["dest"]):
            yield Fault(where=at(where, "dest"), message=f"{row['dest']!r} has a part that is . or ..")
        if row["dest"].strip("/") == "" and "link" in row:
            yield Fault(where=at(where, "dest"), message="the top of the image cannot be a link")
        if leaves(row.get("source", "")) or row.get("source", "").startswith("/"):
            yield Fault(where=at(where, "source"), message="must be a path below the source, without ..")
        pins = [name for name in ("commit", "branch") if name in row]
        if "git" in row and len(pins) != 1:
            yield Fault(where=where, message="a git source needs a commit, or a branch that is looked up")
        if "git" not in row and pins:
            yield Fault(where=at(where, pins[0]), message="is of a git source only")
        if "path" in row and not (folder / row["path"]).exists():
            yield Fault(where=at(where, "path"), message=f"there is no {folder / row['path']}")
    strip = value.get("strip", "")
    if leaves(strip):
        yield Fault(where="$.strip", message="has a part that is . or ..")


def leaves(path: str) -> bool:
    """Tell whether a path has a part that is `.` or `..`."""
    return bool(re.search(r"(^|/)\.{1,2}(/|$)", path))


def _recipe(value: Mapping[str, Any], path: Path) -> Recipe:
    build: dict[str, Any] = {"formats": ["files"], "image": value["image"]}
    build |= {key: value[key] for key in ("packages", "run", "strip") if key in value}
    build["run_options"] = {"network": value.get("network", False), "env": value.get("env", {})}
    build["outputs"] = [*value["outputs"], *(f"!{pattern}" for pattern in value.get("exclude", ()))]
    folder = path.absolute().parent
    return Recipe(
        name=value["name"],
        version=value.get("version", "0"),
        source=str(path),
        sources=tuple(
            Source(**{**row, **({"path": folder / row["path"]} if "path" in row else {})})
            for row in value.get("sources", ())
        ),
        build=build,
    )
