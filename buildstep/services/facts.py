"""What an action is told of its service: values with references put in, producers, processes, files.

Names that `$(…)` may have, the first of these that has it: keys of instance.hrd and of template.hrd, with
`instance.` and `service.` before them too, as JumpScale 7 wants them; `name`, `instance`, `domain`, `version`
of the service; `producer.ROLE.KEY`, a value of the first service of a role that it uses; `system.paths.base`,
`.app`, `.var`, `.cfg`, which an instance or template may change. A secret can be referred to by nothing: an
action asks for it by `service.secret(KEY)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault, SpecError
from buildstep.services import platforms
from buildstep.services.hrd import Ask, Document, Value, parse, resolve
from buildstep.services.hrd.schema import Field, read_schema
from buildstep.services.hrd.typed import Mistyped
from buildstep.services.interface import Facts
from buildstep.services.processes import processes_of
from buildstep.services.relations import relations
from buildstep.services.repository import PRODUCER, Repository, Service
from buildstep.services.secrets import is_reference, is_secret_name, masked, misplaced, read_secret
from buildstep.services.templates import SCHEMA

PATHS: Final[Mapping[str, str]] = {
    "system.paths.base": "/opt/services",
    "system.paths.app": "$(system.paths.base)/apps",
    "system.paths.var": "$(system.paths.base)/var",
    "system.paths.cfg": "$(system.paths.base)/cfg",
}
"""What AYS had in /opt/jumpscale7 lies here: programs, what they write, what configures them."""
ADDRESS: Final = "tcp.addr"
NODE_ADDRESS: Final = "node.tcp.addr"
_LARGEST = 1024 * 1024
"""Bytes of a file of `files.N`; larger ones are delivered as assets, or lie in a directory."""


def facts_of(repository: Repository, service: Service) -> Facts:
    """Return the facts of a service; those of its producers have no producers of their own.

    Raises SpecError with every fault: references to nothing, questions without an answer, values that are
    none of their kind, producers that are not there; ServiceError for services that need each other in a
    cycle.
    """
    return _Reader(repository).facts(service)


def secrets_of(repository: Repository, service: Service, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets of a service by the names by which its actions ask for them.

    Its own have their keys. Those of the services it uses have `ROLE.KEY`, for the first of a role, and
    `SERVICE/KEY` for each. Raises SpecError with all that are not there.
    """
    found: dict[str, str] = {}
    faults: list[Fault] = []

    def take(owner: Service, names: Callable[[str], Sequence[str]]) -> None:
        for key, value in _secret_values(owner).items():
            try:
                where = f"{owner.key}: {key}"
                secret = value
                if is_reference(value):
                    secret = read_secret(value, where, root=repository.root, environ=environ)
                found.update(dict.fromkeys(names(key), secret))
            except SpecError as error:
                faults.extend(error.faults)

    take(service, lambda key: [key])
    for role, producers in repository.uses(service).items():
        for number, producer in enumerate(producers):
            first = [f"{role}."] if number == 0 else []
            prefixes = [*first, f"{producer.key}/"]
            take(producer, lambda key, prefixes=prefixes: [f"{prefix}{key}" for prefix in prefixes])  # type: ignore[misc]
    if faults:
        raise SpecError(f"secrets of {service}", faults)
    return found


def shown_values(service: Service) -> dict[str, Any]:
    """Return the values of instance.hrd as they may be shown: a secret that is no reference is `***`."""
    return {key: masked(key, value) for key, value in service.instance.values.items()}


def _secret_values(service: Service) -> dict[str, str]:
    """Return the values that are secrets, or say where they are, by key; an entry of a table by both."""
    found = {}
    for document in (service.template, service.instance):
        for key, value in document.values.items():
            asked = service.questions.get(key, None)
            rows: dict[str, Any] = {key: value}
            if isinstance(value, dict):
                rows = {f"{key}.{name}": item for name, item in value.items()}
            for name, item in rows.items():
                named = is_secret_name(name) or (isinstance(asked, Ask) and asked.secret)
                if isinstance(item, str) and item and (is_reference(item) or (named and "$(" not in item)):
                    found[name] = item
    return found


class _Reader:
    """values: those that are known by now, by the key of their service."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.values: dict[str, dict[str, Value]] = {}

    def facts(self, service: Service) -> Facts:
        relations(self.repository, [service.key]).levels()  # in a cycle what is below would not end
        uses = self.repository.uses(service)
        producers = {role: [self._facts(one) for one in some] for role, some in uses.items()}
        return self._facts(service, producers)

    def _facts(self, service: Service, producers: Mapping[str, Sequence[Facts]] | None = None) -> Facts:
        where = service.key
        faults = [
            fault for one in (service.template, service.instance) for fault in misplaced(one.values, where)
        ]
        if faults:  # what is left of such a row would be told as another fault
            raise SpecError(f"service {service}", faults)
        values = self.resolved(service)
        machine = machine_of(service)
        name = f"{service.id.name}.{service.id.instance}"
        processes = processes_of(values, name, machine, where, faults)
        users = _users(values, where, faults)
        files, trees = _Files(service, values, self.names(service), faults).read()
        packages = [str(one) for one in _list(values.get("packages", []))]
        if machine is None or not machine.isdisjoint(("debian", "ubuntu")):
            packages += [str(one) for one in _list(values.get("ubuntu.packages", []))]
        schema = service.folder / SCHEMA
        fields = read_schema(schema).fields if schema.is_file() else {}
        typed = {key: _typed(service, key, value, fields.get(key), faults) for key, value in values.items()}
        if faults:
            raise SpecError(f"service {service}", faults)
        return Facts(
            key=service.key,
            name=service.id.name,
            instance=service.id.instance,
            role=service.id.role,
            domain=service.id.domain,
            version=service.id.version,
            values=typed,
            producers=producers or {},
            processes=processes,
            packages=list(dict.fromkeys(packages)),
            users=users,
            files=files,
            trees=trees,
            folder=service.folder,
        )

    def resolved(self, service: Service) -> dict[str, Value]:
        """Return the values of a service, references put in, without its secrets. Raises SpecError."""
        if service.key not in self.values:
            documents = _documents(service)
            values = resolve(documents, self.names(service), keys=_keys(documents))
            self._address(service, values)
            self.values[service.key] = values
        return self.values[service.key]

    def _address(self, service: Service, values: dict[str, Value]) -> None:
        """A service without an address of its own has that of its node."""
        if service.node is None or values.get(ADDRESS):
            return
        if address := self.resolved(service.node).get(NODE_ADDRESS):
            values[ADDRESS] = address

    def names(self, service: Service) -> Callable[[str], Value | None]:
        """Return what looks up names that no document of a service has."""
        secret = _secret_values(service)

        def lookup(name: str) -> Value | None:
            if name in secret:
                hint = f"an action has it by service.secret({name!r})"
                fault = Fault(
                    where=service.key, message=f"$({name}) is a secret, which is put into nothing", hint=hint
                )
                raise SpecError(f"service {service}", [fault])
            if name == ADDRESS and service.node is not None:
                return self.resolved(service.node).get(NODE_ADDRESS)
            if name.startswith(PRODUCER):
                role, _, key = name.removeprefix(PRODUCER).partition(".")
                for producer in self.repository.uses(service).get(role, [])[:1]:
                    return self.resolved(producer).get(key) if key else producer.key
            return None

        return lookup


def _documents(service: Service) -> list[Document]:
    """Return what a service's names are found in, those that win last."""
    secret = _secret_values(service)
    plain = [_without(service.template, secret), _without(service.instance, secret)]
    if service.node is not None and not service.instance.get(ADDRESS, ""):
        plain = [_without(document, {ADDRESS: ""}) for document in plain]
    found = [Document.of(dict(PATHS), where="system"), *plain]
    for prefix, document in zip(("service.", "instance."), plain, strict=True):
        if any(f"$({prefix}" in str(one) for one in plain):
            found.append(Document.of({f"{prefix}{key}": value for key, value in document.values.items()}))
    return found


def _keys(documents: Sequence[Document]) -> list[str]:
    """Return the keys of a service's own values, without those of JumpScale 7's prefixes."""
    return list(dict.fromkeys(key for document in documents[:3] for key in document))


def _without(document: Document, keys: Mapping[str, Any]) -> Document:
    """Return a document without some keys, and without some entries of its tables."""
    if not keys:
        return document
    made = parse(str(document), where=document.where)
    for key, value in document.values.items():
        if key in keys:
            made.remove(key)
        elif isinstance(value, dict) and any(f"{key}.{name}" in keys for name in value):
            made.set(key, {name: item for name, item in value.items() if f"{key}.{name}" not in keys})
    return made


def machine_of(service: Service) -> frozenset[str] | None:
    """Return the names of the platform that a service runs on: `node.platform` of its node, or those of this
    machine; None where these are not known."""
    node = service.node
    if node is None:
        return platforms.host()
    named = node.instance.get("node.platform", "")
    if named and not isinstance(named, Ask):
        return frozenset(str(name).lower() for name in node.instance.items("node.platform"))
    return None


def _typed(service: Service, key: str, value: Value, field: Field | None, faults: list[Fault]) -> Any:
    """Return a value of the type that was asked for, or that the schema has."""
    if isinstance(value, Ask):
        fault = Fault(
            where=service.key, message=f"{key} is asked and not answered", hint="write it in instance.hrd"
        )
        faults.append(fault)
        return None
    if field is not None:
        try:
            return field.typed(value)
        except Mistyped as error:
            where = f"{service.folder / 'instance.hrd'}: {key}"
            faults.append(Fault(where=where, message=error.message, hint=error.hint))
            return None
    asked = service.questions.get(key, None)
    if not isinstance(asked, Ask) or not isinstance(value, str) or (value == "" and asked.default == ""):
        return value
    bare = value.removeprefix(asked.prefix) if asked.prefix else value
    typed = asked.check(bare, f"{service.folder / 'instance.hrd'}: {key}")
    if isinstance(typed, Fault):
        faults.append(typed)
        return None
    return typed


def _list(value: Value) -> list[Any]:
    return Document.of({"list": value}).items("list")


def _users(values: Mapping[str, Value], where: str, faults: list[Fault]) -> list[dict[str, Any]]:
    found = []
    for key, value in sorted(values.items()):
        if not key.startswith("users.") or not isinstance(value, dict):
            continue
        row: dict[str, Any] = {name: item for name, item in value.items() if item != ""}
        for name in ("uid", "gid"):
            if name in row:
                if not str(row[name]).isdigit():
                    faults.append(
                        Fault(where=f"{where}: {key}: {name}", message=f"{row[name]!r} is no number")
                    )
                    continue
                row[name] = int(row[name])
        if "groups" in row:
            row["groups"] = [one for one in str(row["groups"]).replace(";", " ").split() if one]
        found.append(row)
    return found


class _Files:
    """Reads `files.N`: a file or a directory of the template, or a text, and where it goes."""

    def __init__(
        self,
        service: Service,
        values: Mapping[str, Value],
        lookup: Callable[[str], Value | None],
        faults: list[Fault],
    ) -> None:
        self.service = service
        self.values = values
        self.lookup = lookup
        self.faults = faults
        self.files: dict[str, str] = {}
        self.trees: dict[str, Path] = {}

    def fault(self, key: str, message: str, hint: str = "") -> None:
        self.faults.append(Fault(where=f"{self.service.key}: {key}", message=message, hint=hint))

    def read(self) -> tuple[dict[str, str], dict[str, Path]]:
        for key, row in self.values.items():
            if key.startswith("files.") and isinstance(row, dict):
                self._row(key, row)
        return self.files, self.trees

    def _row(self, key: str, row: Mapping[str, Any]) -> None:
        target = str(row.get("dest", ""))
        if not target.startswith("/"):
            self.fault(key, f"dest is {target!r}, and must be an absolute path", "begin it with /")
            return
        if "text" in row:
            self.files[target] = str(row["text"])
            return
        source = self.service.folder / str(row.get("source", ""))
        if not source.resolve().is_relative_to(self.service.folder.resolve()):
            self.fault(key, f"{row.get('source')!r} leads out of the template")
        elif source.is_dir():
            self.trees[target] = source
        else:
            self._file(
                key, source, target, plain=str(row.get("render", "true")).lower() in ("false", "0", "no")
            )

    def _file(self, key: str, source: Path, target: str, *, plain: bool) -> None:
        try:
            if source.stat().st_size > _LARGEST:
                self.fault(
                    key, f"{source} is larger than {_LARGEST} bytes", "put it in a directory, or an asset"
                )
                return
            text = source.read_text(encoding="utf-8")
        except OSError as error:
            self.fault(key, f"{source}: {os.strerror(error.errno or 0)}")
            return
        except UnicodeDecodeError:
            self.fault(key, f"{source} is no text", "name its directory, which is laid out as it is")
            return
        if plain:
            self.files[target] = text
            return
        known = Document.of({**self.values, "files.text": text}, where=os.fspath(source))
        try:
            self.files[target] = str(resolve([known], self.lookup, keys=["files.text"])["files.text"])
        except SpecError as error:
            self.faults += error.faults
