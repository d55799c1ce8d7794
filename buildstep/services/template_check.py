"""Checking templates: everything that is wrong with all of them at once, before anything is created.

Checked are the names of directories and files, keys of `service.hrd` and their values (see `template_keys`),
what is asked, what `dependencies.*` name, and the action files, which are read and never run.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from buildstep.errors import Fault, SpecError
from buildstep.services import platforms
from buildstep.services.dependencies import build_or_runtime
from buildstep.services.exports import exports_of, is_export
from buildstep.services.hrd import Ask, Document, Item, Value
from buildstep.services.interface import Side
from buildstep.services.keys import key_text, parse_key
from buildstep.services.secrets import is_reference, is_secret_name, misplaced, plain_fault
from buildstep.services.template_keys import ACTIONS, KEYS, Kind, row_of, similar, wrong
from buildstep.services.templates import INSTANCE, OLD_ACTIONS, SERVICE, Template, Templates
from buildstep.services.write import files_of
from buildstep.spec.schema import near
from buildstep.system.text import printable

CLASS = "Actions"
_OLD_CLASSES = {
    "ActionsBase": "split actions.py",
    "ActionsTmpl": CLASS,
    "ActionsMgmt": CLASS,
    "ActionsNode": CLASS,
    "ActionsBaseTmpl": CLASS,
}
_TEXTUAL = re.compile(r"\$\((?:service|instance|param|system)\.[\w.]+\)|\$\((?:name|instance|domain)\)")
_TAKEN = {"template.hrd", "questions.hrd", "state.json", "log"}
"""Names that an instance has for files of its own."""


class Finding(NamedTuple):
    """Something about a template or a service. wrong: whether it must be changed, or is only worth a look."""

    where: str
    message: str
    hint: str = ""
    wrong: bool = True

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


def of_fault(fault: Fault) -> Finding:
    """Return a fault as a finding."""
    return Finding(fault.where, fault.message, fault.hint)


def check_templates(templates: Templates, chosen: list[Template] | None = None) -> list[Finding]:
    """Return all that is to be said of templates, of all or those chosen."""
    found = [of_fault(fault) for fault in templates.faults]
    for template in templates.all if chosen is None else chosen:
        found += check_template(template, templates)
    return found


def check_template(template: Template, templates: Templates) -> list[Finding]:
    """Return all that is to be said of one template."""
    found = [*_names(template), *_actions(template)]
    for name in (SERVICE, INSTANCE):
        try:
            template.schema  # noqa: B018 - for its faults
            document = template.service if name == SERVICE else template.instance
        except SpecError as error:
            found += map(of_fault, error.faults)
            continue
        where = os.fspath(template.hrd_file(name) or template.directory / name)
        check = _service if name == SERVICE else _instance
        found += check(document, where)
        if name == SERVICE:
            found += _dependencies(document, where, templates)
            found += _recipe(document, where)
    return list(dict.fromkeys(found))


# -- service.hrd ------------------------------------------------------------------------------------------


def _service(document: Document, where: str) -> Iterator[Finding]:
    for key in document:
        value = document.get(key)
        at = f"{where}: {key}"
        row = row_of(key)
        if row is None:
            yield from _unknown(document, key, at)
        elif row.without:
            yield Finding(at, "has no effect", row.without, wrong=False)
        elif isinstance(value, Ask):
            yield Finding(
                at, f"@ASK is for {INSTANCE}", "move it there, as param.NAME, and write $(param.NAME)"
            )
        elif reason := wrong(row.kind, value):
            yield Finding(at, f"is {_shown(value)}, and must be {reason}", _path_hint(row.kind))
        elif isinstance(value, Mapping) and row.fields is not None:
            yield from _fields(value, row.fields, row.required, at)
        if row is not None and "ACTION" in row.pattern and (name := key.partition(".")[2]) not in ACTIONS:
            yield Finding(at, f"there is no action {name}", near(name, ACTIONS))
        if is_secret_name(key) and value and not is_reference(value) and not isinstance(value, Ask):
            yield of_fault(plain_fault(at, key))
    yield from map(of_fault, misplaced(document.values, where))
    yield from _pairs(document, where)
    names = [str(name) for name in document.items(platforms.KEY)] if platforms.KEY in document else []
    if reason := platforms.unsupported(document):
        yield Finding(
            f"{where}: {platforms.KEY}", reason.partition(" is ")[2] or ", ".join(names), wrong=False
        )


def _unknown(document: Document, key: str, at: str) -> Iterator[Finding]:
    used = re.compile(rf"\$\((?:service\.)?{re.escape(key)}\)")
    if used.search(str(document)) or any(
        isinstance(row, Mapping) and row.get("args") == key
        for row in document.numbered("dependencies").values()
    ):
        return
    if word := similar(key):
        yield Finding(at, "means nothing", f'did you mean "{word}"?')
    elif (first := key.partition(".")[0]) in {row.pattern.partition(".")[0] for row in KEYS}:
        forms = ", ".join(row.pattern for row in KEYS if row.pattern.partition(".")[0] == first)
        yield Finding(at, "means nothing", f"there is {forms}")
    else:
        yield Finding(at, "is read by nothing but actions", f"param.{key} says so", wrong=False)


def _fields(
    value: Mapping[str, Item], fields: Mapping[str, Kind], required: object, at: str
) -> Iterator[Finding]:
    for name, item in value.items():
        if name not in fields:
            yield Finding(
                at, f"{name} means nothing in it", near(name, fields) or f"there is {', '.join(fields)}"
            )
        elif reason := wrong(fields[name], item):
            yield Finding(
                f"{at}: {name}", f"is {_shown(item)}, and must be {reason}", _path_hint(fields[name])
            )
        elif is_secret_name(name) and item and not is_reference(item) and "$(" not in str(item):
            yield of_fault(plain_fault(f"{at}: {name}", name))
    assert isinstance(required, tuple), required
    for name in required:
        if not value.get(name):
            yield Finding(at, f"has no {name}", f"add {name}:VALUE")


def _pairs(document: Document, where: str) -> Iterator[Finding]:
    """What belongs together: a file has a source or a text, an environment has its process."""
    for number, row in document.numbered("files").items():
        if isinstance(row, Mapping) and bool(row.get("source")) == bool(row.get("text")):
            yield Finding(
                f"{where}: files.{number}", "has not just one of source and text", "source:FILE names one"
            )
    processes = document.numbered("process")
    for number in document.numbered("env.process"):
        if number not in processes:
            yield Finding(f"{where}: env.process.{number}", f"there is no process.{number}")


def _recipe(document: Document, where: str) -> Iterator[Finding]:
    """What is wrong with rows of a recipe, of those without a reference to what is not known here."""
    rows = {key: value for key, value in document.values.items() if is_export(key) and "$(" not in str(value)}
    known = {"git.url": document.values["git.url"]} if "git.url" in document else {}
    faults: list[Fault] = []
    exports_of({**rows, **known}, None, where, faults)
    yield from map(of_fault, faults)


def _dependencies(document: Document, where: str, templates: Templates) -> Iterator[Finding]:
    faults: list[Fault] = []
    rows = [
        *build_or_runtime(document, "runtime", where, faults),
        *build_or_runtime(document, "build", where, []),
    ]
    yield from map(of_fault, faults)
    for row in rows:
        domain = str(row.get("domain") or "")
        text = f"{domain}|{row['name']}" if domain else str(row["name"])
        at = f"{where}: {row['where']}"
        try:
            found = templates.find(key_text(parse_key(text, pattern=False)))
        except SpecError as error:
            yield from (Finding(at, fault.message, fault.hint) for fault in error.faults)
            continue
        if len(found) != 1:
            fault = templates.choice_fault(text, found)
            yield Finding(at, f"{text}: {fault.message}", fault.hint)
    for key in ("dependencies.node", "dependencies.global"):
        for role in document.items(key) if key in document else ():
            if not templates.of_role(str(role).lower()):
                roles = {template.role for template in templates}
                yield Finding(f"{where}: {key}", f"no template has the role {role}", near(str(role), roles))


# -- instance.hrd -----------------------------------------------------------------------------------------


def _instance(document: Document, where: str) -> Iterator[Finding]:
    for key, ask in document.asks().items():
        at = f"{where}: {key}"
        if ask.default and (ask.secret or is_secret_name(key)) and not is_reference(ask.default):
            yield of_fault(plain_fault(f"{at}: default", key))
        elif ask.default and "$(" not in ask.default and not is_reference(ask.default):
            value = ask.check(ask.default, f"{at}: default")
            if isinstance(value, Fault):
                yield of_fault(value)
    for key in document:
        value = document.get(key)
        if is_secret_name(key) and value and not isinstance(value, Ask) and not is_reference(value):
            yield of_fault(plain_fault(f"{where}: {key}", key))


# -- names and actions ------------------------------------------------------------------------------------


def _names(template: Template) -> Iterator[Finding]:
    for path in files_of(template):
        relative = os.fsencode(path.relative_to(template.directory))
        shown = printable(relative.decode(errors="backslashreplace"))
        at = f"{template.directory}/{shown}"
        try:
            text = relative.decode()
        except UnicodeDecodeError:
            yield Finding(at, "its name is no UTF-8", "rename it")
            continue
        if bad := next((sign for sign in text if sign == "|" or not sign.isprintable()), ""):
            yield Finding(at, f"{bad!a} in its name breaks lists of files", "rename it")
        if any(part.startswith("-") for part in text.split("/")):
            yield Finding(at, "a name that begins with a dash is taken for an option", "rename it")
        if text in OLD_ACTIONS:
            yield Finding(at, "is of JumpScale 7 and is not read", _SPLIT[text])
        elif text.partition("/")[0] in _TAKEN or "!" in text.partition("/")[0]:
            yield Finding(at, "an instance has a file of its own with this name", "rename it")


_SPLIT = {
    "actions.py": "move build to actions_tmpl.py, what runs here to actions_mgmt.py and the rest to "
    f"actions_node.py, in each a class {CLASS}",
    "actions.lua": "write it in Python, as actions_node.py",
}


def _actions(template: Template) -> Iterator[Finding]:
    for side, path in template.actions.items():
        try:
            tree = ast.parse(path.read_bytes(), filename=os.fspath(path))
        except (SyntaxError, ValueError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            yield Finding(f"{path}{line}", f"is no Python: {getattr(error, 'msg', error)}")
            continue
        except OSError as error:
            yield Finding(os.fspath(path), os.strerror(error.errno or 0))
            continue
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        if CLASS in classes:
            yield from _methods(classes[CLASS], f"{path}")
        else:
            other = next((name for name in classes if name in _OLD_CLASSES), "") or next(iter(classes), "")
            hint = f"rename {other}" if other else f"class {CLASS}(ActionsBase{_base(side)}):"
            yield Finding(os.fspath(path), f"has no class {CLASS}", hint)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if found := _TEXTUAL.search(node.value):
                hint = f'write service.values["{found[0][2:-1]}"]: code is not changed before it runs'
                yield Finding(f"{path}:{node.lineno}", f"{found[0]} is no value here", hint)


def _base(side: Side) -> str:
    return {Side.TEMPLATE: "Tmpl", Side.MANAGEMENT: "Mgmt", Side.NODE: "Node"}[side]


def _methods(found: ast.ClassDef, path: str) -> Iterator[Finding]:
    for node in found.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        at = f"{path}:{node.lineno}"
        if node.name in ACTIONS:
            static = any(
                getattr(deco, "id", "") in ("staticmethod", "classmethod") for deco in node.decorator_list
            )
            if len([*node.args.posonlyargs, *node.args.args]) < 2 and not node.args.vararg and not static:
                yield Finding(at, f"{node.name} takes no service", f"def {node.name}(self, service):")
        elif not node.name.startswith("_") and (hint := near(node.name, ACTIONS)):
            yield Finding(at, f"{node.name} is no action, and is called only by others", hint, wrong=False)


def _shown(value: Value | Item) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return "binary" if isinstance(value, bytes) else repr(value)


def _path_hint(kind: Kind) -> str:
    return "begin it with / or $(system.paths.base)/" if kind is Kind.PATH else ""
