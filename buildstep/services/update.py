"""Taking changed templates into services: a service keeps what it was created from until it is updated.

What a person or an action has set stays. A value that the template gave, and that nobody changed since,
follows the template; a new question is answered as in a create; the answer to one that is gone stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from buildstep.errors import Fault, SpecError
from buildstep.services.answers import MISSING, Answers, Prompt
from buildstep.services.create_requests import Draft
from buildstep.services.hrd import Ask, Document, Value
from buildstep.services.questions import answer_for, answered
from buildstep.services.repository import (
    IDENTITY,
    INSTANCE_FILE,
    QUESTIONS_FILE,
    TEMPLATE_FILE,
    Repository,
    Service,
    hrd_value,
)
from buildstep.services.secrets import MASK, is_reference, is_secret_name
from buildstep.services.templates import Template
from buildstep.services.write import files_of, template_document


class Change(NamedTuple):
    """One thing that an update changes. kind: N is new, M modified, D deleted; where: template, instance or
    file; name: the key, or the file's path."""

    kind: Literal["N", "M", "D"]
    where: str
    name: str
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        values = {"N": f" = {self.new}", "M": f": {self.old} -> {self.new}", "D": ""}[self.kind]
        return f"{self.kind} {self.where} {self.name}{'' if self.where == 'file' else values}"


@dataclass(frozen=True, kw_only=True)
class Update:
    """What an update of a service does. instance: its instance.hrd afterwards."""

    service: Service
    template: Template
    changes: Sequence[Change]
    instance: Document


def plan_updates(
    repository: Repository,
    services: Sequence[Service],
    answers: Answers | None = None,
    prompt: Prompt | None = None,
) -> list[Update]:
    """Return what updates of services would do; nothing is changed. Raises SpecError with every fault."""
    faults: list[Fault] = []
    found = []
    for service in services:
        try:
            found.append(_plan(repository, service, answers or Answers(), prompt, faults))
        except SpecError as error:
            faults += error.faults
    if faults:
        raise SpecError("cannot update", faults)
    return found


def _plan(
    repository: Repository, service: Service, answers: Answers, prompt: Prompt | None, faults: list[Fault]
) -> Update:
    template = _template(repository, service)
    instance, rows = _parameters(service, template, answers, prompt, faults)
    changes = [*_keys(service.template, template_document(template, service.id.instance)), *rows]
    changes += _files(service.folder, template)
    return Update(service=service, template=template, changes=changes, instance=instance)


def apply(updates: Sequence[Update]) -> None:
    """Write updates, with the repository's lock held; the next one finishes what a kill cut short. Raises
    OSError.

    Records of what was done stay: what changed is done anew when the service is installed again.
    """
    from buildstep.system.files import atomic_write

    def put(path: Path, data: bytes, mode: int = 0o644) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, mode=mode) as stream:
            stream.write(data)

    for update in updates:
        folder, template = update.service.folder, update.template
        files = {path.relative_to(template.directory): path for path in files_of(template)}
        for change in update.changes:
            if change.where == "file" and change.kind == "D":
                (folder / change.name).unlink(missing_ok=True)
            elif change.where == "file":
                source = files[Path(change.name)]
                put(folder / change.name, source.read_bytes(), source.stat().st_mode & 0o777)
        # The questions come last: they tell which values are the template's, should this be cut short.
        put(folder / INSTANCE_FILE, str(update.instance).encode())
        put(folder / TEMPLATE_FILE, str(template_document(template, update.service.id.instance)).encode())
        put(folder / QUESTIONS_FILE, str(template.instance).encode())


def _template(repository: Repository, service: Service) -> Template:
    """Return the template of a service: of the same version, or the only one there is."""
    own = service.id
    found = [
        template
        for template in repository.templates
        if (template.domain, template.name) == (own.domain, own.name)
    ]
    same = [template for template in found if template.version == own.version]
    if len(same or found) == 1:
        return (same or found)[0]
    versions = ", ".join(template.version for template in found)
    message = f"has {len(found)} templates, of versions {versions}" if found else "its template is gone"
    raise SpecError(
        "template", [Fault(where=service.key, message=message, hint="keep the one that is meant")]
    )


def _keys(old: Document, new: Document) -> Iterator[Change]:
    """Yield what differs between two template.hrd."""
    before, after = old.values, new.values
    for key in dict.fromkeys((*before, *after)):
        if key in IDENTITY and key != "version":
            continue
        if before.get(key) != after.get(key):
            yield _change("template", key, before.get(key), after.get(key))


def _change(where: str, key: str, old: Value | None, new: Value | None) -> Change:
    kind: Literal["N", "M", "D"] = "N" if old is None else "D" if new is None else "M"
    return Change(kind, where, key, _shown(key, old), _shown(key, new))


def _shown(key: str, value: Any) -> Any:
    if isinstance(value, Ask):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _shown(name, item) for name, item in value.items()}
    return MASK if is_secret_name(key) and value and not is_reference(value) else value


def _parameters(
    service: Service, template: Template, answers: Answers, prompt: Prompt | None, faults: list[Fault]
) -> tuple[Document, list[Change]]:
    """Return the instance.hrd of a service after an update, and what changes in it."""
    from buildstep.services.hrd import parse

    instance = parse(str(service.instance), where=service.instance.where)
    old, new = service.questions.values, template.instance.values
    draft = Draft(
        template=template, key=service.id, parent=service.parent, producers={}, arguments={}, reason="update"
    )
    changes = []
    for key, value in new.items():
        there = instance.get(key, None)
        where = f"{service.folder / INSTANCE_FILE}: {key}"
        if isinstance(value, Ask) and (there is None or isinstance(there, Ask)):
            given = answer_for(draft, key, value, answers, prompt, asked=True, faults=faults)
            made = MISSING if given is MISSING else answered(value, key, given, where, faults)
        elif isinstance(value, Ask):
            if isinstance(there, str):  # does the answer still fit?
                answered(value, key, there.removeprefix(value.prefix), where, faults)
            continue
        elif there is None or (there == old.get(key) and there != value):
            made = value
        else:
            continue
        if made is not MISSING:
            instance.set(key, hrd_value(made))
            changes.append(_change("instance", key, there, instance.get(key)))
    for key in old:
        if key not in new and not isinstance(old[key], Ask) and instance.get(key, None) == old[key]:
            instance.remove(key)
            changes.append(_change("instance", key, old[key], None))
    return instance, changes


def _files(folder: Path, template: Template) -> Iterator[Change]:
    """Yield which files of a template a service has otherwise, or has no more."""
    files = {path.relative_to(template.directory): path for path in files_of(template)}
    for name, path in files.items():
        there = folder / name
        if not there.is_file():
            yield Change("N", "file", str(name))
        elif there.read_bytes() != path.read_bytes():
            yield Change("M", "file", str(name))
    for path in folder.glob("actions_*.py"):
        if path.relative_to(folder) not in files:
            yield Change("D", "file", path.name)
