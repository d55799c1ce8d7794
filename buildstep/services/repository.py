"""A repository of services: templates, and instances in directories.

    ROOT/servicetemplates/**                        templates, see `templates`
    ROOT/services/ROLE!INSTANCE/                    an instance; those below it lie in its directory
        template.hrd                                service.hrd of its template as it was, and which template
        instance.hrd                                its parameters: answers, `parent`, `producer.ROLE`
        questions.hrd                               instance.hrd of its template as it was, with `@ASK`
        actions_*.py and the template's other files
        state.json, log/                            see `records`

The key of an instance is `name!instance`, with those of the services above it before it:
`node.ssh!rack4:redis!main`. It is what its directories say, so that two with one name and instance below
different parents are told apart.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault, SpecError
from buildstep.services.hrd import Document, read
from buildstep.services.interface import Key, Side
from buildstep.services.keys import WORD, key_text, parse_path, path_matches, role_of
from buildstep.services.templates import Templates, find_templates
from buildstep.spec.schema import near

TEMPLATES: Final = "servicetemplates"
SERVICES: Final = "services"
TEMPLATE_FILE: Final = "template.hrd"
INSTANCE_FILE: Final = "instance.hrd"
QUESTIONS_FILE: Final = "questions.hrd"
UNFINISHED: Final = "instance_.hrd"
"""Is in an instance that AYS had not finished."""
IDENTITY: Final = ("domain", "name", "version", "instance")
"""Keys of template.hrd that say of which template it is."""
PRODUCER: Final = "producer."

Tell = Callable[[str], None]


@dataclass(eq=False)
class Service:
    """An instance. folder: its directory; parent: the one that it lies in.

    template, instance: its HRD files; questions: the instance.hrd of its template as it was.
    """

    folder: Path
    parent: Service | None
    template: Document
    instance: Document
    questions: Document

    @cached_property
    def id(self) -> Key:
        """The key of the instance without those above it."""
        name = str(self.template.get("name"))
        domain, version = (str(self.template.get(part, "")) for part in ("domain", "version"))
        instance = str(self.template.get("instance"))
        return Key(domain=domain, name=name, instance=instance, role=role_of(name), version=version)

    @cached_property
    def path(self) -> tuple[Key, ...]:
        """The keys of the services above it, outermost first, and its own."""
        return (*(self.parent.path if self.parent else ()), self.id)

    @cached_property
    def key(self) -> str:
        """Its key in the repository: `name!instance` of it and of those above it."""
        return ":".join(f"{part.name}!{part.instance}" for part in self.path)

    @property
    def producers(self) -> dict[str, list[str]]:
        """The keys of the services that it uses, by role, as instance.hrd has them."""
        rows = {key: self.instance.items(key) for key in self.instance if key.startswith(PRODUCER)}
        return {key.removeprefix(PRODUCER): list(map(str, keys)) for key, keys in rows.items() if keys}

    @property
    def actions(self) -> Mapping[Side, Path]:
        """Its action files."""
        paths = {side: self.folder / f"actions_{side}.py" for side in Side}
        return {side: path for side, path in paths.items() if path.is_file()}

    @property
    def node(self) -> Service | None:
        """The nearest service above it that has the role `node`: where it runs; None: here."""
        above = self.parent
        while above is not None and above.id.role != "node":
            above = above.parent
        return above

    def set(self, values: Mapping[str, Any]) -> None:
        """Write parameters into instance.hrd, which stays complete whatever happens: texts, numbers, truth
        values, and lists and tables of them. Raises SpecError for what HRD cannot say; OSError."""
        from buildstep.system.files import atomic_write

        for key, value in values.items():
            self.instance.set(key, hrd_value(value))
        with atomic_write(self.folder / INSTANCE_FILE, mode=0o644) as stream:
            stream.write(str(self.instance).encode())

    def __str__(self) -> str:
        return self.key


@dataclass
class Repository:
    """The templates and the instances below a directory. services: by key, parents before what lies in them.

    faults: instances that cannot be read; they are not among the services.
    """

    root: Path
    templates: Templates
    services: dict[str, Service] = field(default_factory=dict)
    faults: Sequence[Fault] = ()

    @classmethod
    def open(
        cls, root: Path, templates: Sequence[tuple[str, Path]] = (), *, strict: bool = True
    ) -> Repository:
        """Read a repository. templates: more directories of templates, each with the domain of those in it
        that name none. strict: raise SpecError where an instance cannot be read, with all of these."""
        root = root.absolute()  # actions run elsewhere
        found = cls(root, find_templates([("", root / TEMPLATES), *templates]))
        found.reload(strict=strict)
        return found

    def reload(self, *, strict: bool = True) -> None:
        """Read the instances again. strict: see `open`."""
        faults: list[Fault] = []
        self.services = {service.key: service for service in _instances(self.root / SERVICES, None, faults)}
        self.faults = tuple(faults)
        if strict and faults:
            raise SpecError(f"services of {self.root}", faults)

    def find(self, pattern: str) -> list[Service]:
        """Return the services that a pattern matches, sorted as `services` is. Raises SpecError for a text
        that is no pattern."""
        keys = parse_path(pattern)
        return [service for service in self.services.values() if path_matches(keys, service.path)]

    def one(self, pattern: str) -> Service:
        """Return the one service that a pattern means. Raises SpecError: there is none, or more than one."""
        if found := self.services.get(pattern):
            return found
        services = self.find(pattern)
        if len(services) != 1:
            raise SpecError("service", [self.choice_fault(pattern, services)])
        return services[0]

    def choice_fault(self, pattern: str, found: Sequence[Service]) -> Fault:
        """Return what is wrong with a pattern that does not mean one service."""
        if found:
            keys = ", ".join(service.key for service in found)
            return Fault(
                where=pattern, message=f"means {len(found)} services: {keys}", hint="name the one you mean"
            )
        return Fault(where=pattern, message="no service has this key", hint=near(pattern, self._words()))

    def _words(self) -> Iterator[str]:
        for service in self.services.values():
            yield service.key
            yield f"{service.id.name}!{service.id.instance}"
            yield service.id.name
            yield f"@{service.id.role}"

    def children(self, service: Service) -> list[Service]:
        """Return the services right below a service."""
        return [other for other in self.services.values() if other.parent is service]

    def uses(self, service: Service) -> dict[str, list[Service]]:
        """Return the services that a service uses, by role. Raises SpecError for one that is not there."""
        faults = list(self.use_faults(service))
        if faults:
            raise SpecError(f"service {service}", faults)
        return {role: [self.services[key] for key in keys] for role, keys in service.producers.items()}

    def use_faults(self, service: Service) -> Iterator[Fault]:
        """Yield what is wrong with the services that a service says it uses."""
        for role, keys in service.producers.items():
            for key in keys:
                where = f"{service.folder / INSTANCE_FILE}: {PRODUCER}{role}"
                if key not in self.services:
                    same = [other for other, found in self.services.items() if found.id.role == role]
                    hint = near(key, same) or "create it, or remove the entry"
                    yield Fault(where=where, message=f"there is no service {key}", hint=hint)
                elif self.services[key].id.role != role:
                    yield Fault(where=where, message=f"{key} has the role {self.services[key].id.role}")

    @contextlib.contextmanager
    def lock(self, tell: Tell | None = None) -> Iterator[None]:
        """Hold the one lock of the repository: whoever changes an instance has it. tell: is told of waits."""
        from buildstep.system.locks import lock

        (self.root / SERVICES).mkdir(parents=True, exist_ok=True)
        with lock(self.root / SERVICES / ".lock", tell=tell):
            yield


def _instances(directory: Path, parent: Service | None, faults: list[Fault]) -> Iterator[Service]:
    """Yield the instances in a directory, sorted, each before those that lie in it."""
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return
    for name in names:
        if "!" not in name or name.startswith("."):
            continue
        try:
            service = read_instance(directory / name, parent)
        except SpecError as error:
            faults += error.faults
            continue
        yield service
        yield from _instances(directory / name, service, faults)


def read_instance(folder: Path, parent: Service | None) -> Service:
    """Read an instance. Raises SpecError for a directory that is none."""
    where = os.fspath(folder)
    if not (folder / INSTANCE_FILE).is_file() or not (folder / TEMPLATE_FILE).is_file():
        old = (folder / UNFINISHED).is_file()
        message = "was not finished by AYS" if old else f"has no {TEMPLATE_FILE} or no {INSTANCE_FILE}"
        raise SpecError(
            "service", [Fault(where=where, message=message, hint="remove it, and create it again")]
        )
    template, instance = read(folder / TEMPLATE_FILE), read(folder / INSTANCE_FILE)
    questions = folder / QUESTIONS_FILE
    service = Service(
        folder=folder,
        parent=parent,
        template=template,
        instance=instance,
        questions=read(questions) if questions.is_file() else instance,
    )
    file = os.fspath(folder / TEMPLATE_FILE)
    missing = [part for part in ("name", "instance") if not WORD.fullmatch(str(template.get(part, "")))]
    if missing:
        faults = [Fault(where=file, message=f"has no valid {part}") for part in missing]
        raise SpecError("service", faults)
    if folder.name != folder_name(service.id):
        message = f"is of {key_text(service.id)}, which lies in a directory {folder_name(service.id)}"
        raise SpecError("service", [Fault(where=file, message=message, hint="rename the directory")])
    return service


def folder_name(key: Key) -> str:
    """Return the name of the directory of an instance."""
    return f"{key.role}!{key.instance}"


def find_root(start: Path) -> Path:
    """Return the nearest directory, this one or one above it, that has templates; else this one."""
    for directory in (start, *start.absolute().parents):
        if (directory / TEMPLATES).is_dir():
            return directory
    return start


def hrd_value(value: Any) -> Any:
    """Return a typed value as HRD has it, which knows texts and what holds texts; a truth value is 1 or 0, as
    AYS writes it."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): hrd_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hrd_value(item) for item in value]
    return "" if value is None else value
