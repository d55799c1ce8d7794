"""Templates of services: how they are found in directories, and what one consists of.

A directory is a template if it holds one of `service.hrd`, `instance.hrd`, `schema.hrd`, `actions_tmpl.py`,
`actions_mgmt.py` and `actions_node.py` (or JumpScale 7's `actions.py`, which `template_check` then refuses).
Directories are walked from the top: one whose name starts with a dot is skipped, one whose name starts with
`_` is a category, which is no template itself. The directory's name is the template's name; in
`DOMAIN__NAME` the domain stands before it, in `NAME (1.2)` the version behind.

A template without an HRD file of its own has that of the template whose name is shorter by the last part:
`node.ssh` has those of `node`. Action files are not inherited.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from buildstep.errors import Fault, SpecError
from buildstep.services.hrd import Document, parse, read
from buildstep.services.hrd.schema import Field, Schema, read_schema
from buildstep.services.interface import Key, Side
from buildstep.services.keys import VERSION, WORD, key_text, matches, parse_key, role_of
from buildstep.spec.schema import near

SERVICE = "service.hrd"
"""What all instances of a template share."""
INSTANCE = "instance.hrd"
"""The parameters of one instance: in a template with `@ASK` for what is asked."""
SCHEMA = "schema.hrd"
"""Types of parameters, as AYS 8 declares them."""
OLD_ACTIONS = ("actions.py", "actions.lua")
"""Action files of JumpScale 7."""

_MARKS = {SERVICE, INSTANCE, SCHEMA, "actions.py", *(f"actions_{side}.py" for side in Side)}
_DIRECTORY = re.compile(r"(?:(?P<domain>.+?)__)?(?P<name>.+?)(?: *\((?P<version>[^()]*)\))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Template:
    """A template. directory: where its files are; bases: the templates whose HRD files it has where it has
    none, nearest first."""

    domain: str
    name: str
    version: str
    directory: Path
    bases: Sequence[Template] = field(default=(), repr=False)

    @property
    def key(self) -> Key:
        return Key(domain=self.domain, name=self.name, version=self.version, role=self.role)

    @property
    def role(self) -> str:
        return role_of(self.name)

    def __str__(self) -> str:
        return key_text(Key(domain=self.domain, name=self.name, version=self.version))

    def hrd_file(self, name: str) -> Path | None:
        """Return the HRD file of this name that the template has, its own or a base's; None without one."""
        for template in (self, *self.bases):
            if (path := template.directory / name).is_file():
                return path
        return None

    @cached_property
    def service(self) -> Document:
        """What all instances share; empty without a file. Raises SpecError for a file that is no HRD."""
        return _document(self.hrd_file(SERVICE), self.directory / SERVICE)

    @cached_property
    def instance(self) -> Document:
        """Parameters of an instance, some of them asked; without a file what the schema wants is asked.
        Raises SpecError for a file that is no HRD."""
        path = self.hrd_file(INSTANCE)
        if path is None and self.schema is not None:
            return _questions(self.schema)
        return _document(path, self.directory / INSTANCE)

    @cached_property
    def schema(self) -> Schema | None:
        """Types of parameters, and which services it wants; None without a file. Raises SpecError."""
        path = self.hrd_file(SCHEMA)
        return None if path is None else read_schema(path)

    @property
    def actions(self) -> Mapping[Side, Path]:
        """The action files that are there."""
        paths = {side: self.directory / f"actions_{side}.py" for side in Side}
        return {side: path for side, path in paths.items() if path.is_file()}


class Templates:
    """The templates of some directories. faults: directories that are none by their names."""

    def __init__(self, templates: Iterable[Template], faults: Sequence[Fault] = ()) -> None:
        self.all = sorted(templates, key=lambda template: (template.name, template.domain, template.version))
        self.faults = tuple(faults)

    def __iter__(self) -> Iterator[Template]:
        return iter(self.all)

    def find(self, text: str) -> list[Template]:
        """Return the templates that a pattern matches: `redis`, `corp|redis (1.2)`, `@node`."""
        pattern = parse_key(text)
        return [template for template in self.all if matches(pattern, template.key)]

    def one(self, text: str) -> Template:
        """Return the one template that a pattern means. Raises SpecError: there is none, or more than one."""
        found = self.find(text)
        if len(found) == 1:
            return found[0]
        raise SpecError("template", [self.choice_fault(text, found)])

    def choice_fault(self, text: str, found: Sequence[Template]) -> Fault:
        """Return what is wrong with a pattern that does not mean one template."""
        if found:
            rows = ", ".join(f"{template} ({template.directory})" for template in found)
            return Fault(where=text, message=f"means {len(found)} templates: {rows}", hint="name its domain")
        return Fault(where=text, message="no template has this name", hint=near(text, map(str, self.all)))

    def of_role(self, role: str) -> list[Template]:
        """Return the templates of a role: the one that has the role as its name, else all of it."""
        found = [template for template in self.all if template.role == role]
        return [template for template in found if template.name == role] or found


def find_templates(directories: Sequence[tuple[str, Path]]) -> Templates:
    """Return the templates of directories. directories: the domain of those that name none, and the path.

    Two with one name, domain and version are a fault, whichever directories they are in.
    """
    faults: list[Fault] = []
    found: dict[tuple[str, str, str], Template] = {}
    for domain, top in directories:
        for directory in _walk(top):
            template = _named(directory, domain, faults)
            if template is None:
                continue
            same = found.setdefault((template.domain, template.name, template.version), template)
            if same is not template:
                message = f"is the template {template} a second time: the first is {same.directory}"
                faults.append(Fault(where=os.fspath(directory), message=message, hint="rename one of them"))
    return Templates(_with_bases(list(found.values())), faults)


def _walk(top: Path) -> Iterator[Path]:
    """Yield the directories that hold a template, sorted. Links to directories are not followed."""
    for path, directories, files in os.walk(top):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        if Path(path) != top and not os.path.basename(path).startswith("_") and not _MARKS.isdisjoint(files):
            yield Path(path)


def _named(directory: Path, domain: str, faults: list[Fault]) -> Template | None:
    """Return the template of a directory, as its name tells it; a name that is none is a fault."""
    found = _DIRECTORY.fullmatch(directory.name)
    assert found is not None, directory
    parts = {kind: text.lower() for kind, text in found.groupdict().items() if text is not None}
    rules = {"domain": WORD, "name": WORD, "version": VERSION}
    if bad := [
        f"{text!r} is no {kind}"
        for kind, text in parts.items()
        if not rules[kind].fullmatch(text) or "__" in text
    ]:
        hint = "rename the directory, or let a dot begin its name if it is no template"
        where = ascii(os.fspath(directory))[1:-1]
        faults.append(Fault(where=where, message=f"cannot be a template: {', '.join(bad)}", hint=hint))
        return None
    return Template(
        domain=parts.get("domain", domain),
        name=parts["name"],
        version=parts.get("version", ""),
        directory=directory.absolute(),
    )


def _with_bases(templates: Sequence[Template]) -> Iterator[Template]:
    """Give each template the ones that it has HRD files of."""
    by_name = {(template.domain, template.name): template for template in templates}
    for template in templates:
        bases = []
        name = template.name
        while "." in name:
            name = name.rpartition(".")[0]
            if base := by_name.get((template.domain, name)):
                bases.append(base)
        yield Template(
            domain=template.domain,
            name=template.name,
            version=template.version,
            directory=template.directory,
            bases=tuple(bases),
        )


def _questions(schema: Schema) -> Document:
    """Return the questions of a schema. What is optional and has no default is not asked, but may be given;
    what names a parent or producers is no parameter."""
    fields = [field for field in schema.fields.values() if not relates(field)]
    asked = {
        field.key: field.question() for field in fields if not field.optional or field.default is not None
    }
    return Document.of(dict(asked), where=schema.where)


def relates(field: Field) -> bool:
    """Return whether a field of a schema names a parent or producers, and no value."""
    return field.consume is not None or bool(field.parent)


def _document(path: Path | None, where: Path) -> Document:
    return parse("", where=os.fspath(where)) if path is None else read(path)
