"""What a template says its services need: found among those there are, or created on the same node.

    dependencies.global = roleA, roleB      one service of each role, anywhere; it must be there already
    dependencies.node = roleC               one on the same node; it is created there if there is none
    dependencies.N = name:…, domain:…, instance:…, args:…, type:runtime|build
                                            JumpScale 7's: the service of a template, beside this one; created
                                            with the answers `args` if it is not there; of type `build` only
                                            for a build
    ns.enable = True                        the one service of role `ns`, if there is one

Names in `dependencies.global` and `.node` are roles, not names of templates. Each becomes a producer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from buildstep.errors import Fault, SpecError
from buildstep.services.create_requests import MAIN, Draft, make_draft
from buildstep.services.hrd import Document
from buildstep.services.interface import Key
from buildstep.services.keys import key_text
from buildstep.services.repository import Repository, Service
from buildstep.services.templates import Template

TYPES = ("runtime", "build")
FIELDS = ("name", "domain", "instance", "args", "type")


class Use(NamedTuple):
    """A service that another uses. draft: where it is still to be created."""

    role: str
    key: str
    draft: Draft | None = None


def uses(
    repository: Repository, drafts: Mapping[str, Draft], draft: Draft, faults: list[Fault]
) -> Iterator[Use]:
    """Yield what a draft needs, one after the other: whoever takes them adds each to `drafts` meanwhile."""
    return _Search(repository, drafts, draft, faults).uses()


class _Search:
    def __init__(
        self, repository: Repository, drafts: Mapping[str, Draft], draft: Draft, faults: list[Fault]
    ) -> None:
        self.repository = repository
        self.drafts = drafts
        self.draft = draft
        self.faults = faults
        self.where = f"{draft.text}: template {draft.template}"

    def fault(self, key: str, message: str, hint: str = "") -> None:
        self.faults.append(Fault(where=f"{self.where}: {key}", message=message, hint=hint))

    def uses(self) -> Iterator[Use]:
        document = self.draft.template.service
        for row in build_or_runtime(document, "runtime", self.where, self.faults):
            if (use := self.of_template(row)) is not None:
                yield use
        for role in _roles(document, "dependencies.node"):
            if (use := self.on_node(role)) is not None:
                yield use
        for role in _roles(document, "dependencies.global"):
            if (use := self.anywhere(role)) is not None:
                yield use
        if "ns.enable" in document and document.boolean("ns.enable") and "ns" not in self.draft.producers:
            found = self.of_role("ns")
            if len(found) > 1:
                self.fault("ns.enable", f"there are {len(found)} services of the role ns: {', '.join(found)}")
            elif found:
                yield Use("ns", found[0])

    def of_role(self, role: str, *, here: bool = False) -> list[str]:
        """Return the keys of services of a role. here: only those on the node of the draft."""
        there = [(key, service.id, service.node) for key, service in self.repository.services.items()]
        there += [(key, other.key, other.node) for key, other in self.drafts.items()]
        return [
            key
            for key, parts, node in there
            if parts.role == role and (not here or node is self.draft.node) and key != self.draft.text
        ]

    def anywhere(self, role: str) -> Use | None:
        if role in self.draft.producers:
            return None
        found = self.of_role(role)
        if len(found) == 1:
            return Use(role, found[0])
        if found:
            hint = f"name the one that is meant: --consume {found[0]}"
            self.fault(
                "dependencies.global", f"{len(found)} services have the role {role}: {', '.join(found)}", hint
            )
        else:
            hint = f"create one first: {self._creating(role)}"
            self.fault("dependencies.global", f"no service has the role {role}", hint)
        return None

    def _creating(self, role: str) -> str:
        names = [str(template) for template in self.repository.templates.of_role(role)]
        return f"buildstep service create {names[0]}" if names else f"no template has the role {role} either"

    def on_node(self, role: str) -> Use | None:
        if role in self.draft.producers:
            return None
        found = self.of_role(role, here=True)
        where = self.draft.node.key if self.draft.node else "this machine"
        if len(found) == 1:
            return Use(role, found[0])
        if found:
            hint = f"name the one that is meant: --consume {found[0]}"
            message = f"{len(found)} services on {where} have the role {role}: {', '.join(found)}"
            self.fault("dependencies.node", message, hint)
            return None
        templates = self.repository.templates.of_role(role)
        if len(templates) != 1:
            names = ", ".join(map(str, templates))
            message = f"{len(templates)} templates have the role {role}: {names}" if templates else ""
            message = message or f"no service on {where} and no template has the role {role}"
            self.fault("dependencies.node", message, "create the service that is meant first")
            return None
        return self._new(templates[0], MAIN, self.draft.node or self.draft.parent, {})

    def of_template(self, row: Mapping[str, Any]) -> Use | None:
        where = str(row["where"])
        pattern = key_text(Key(domain=str(row.get("domain", "")).lower(), name=str(row["name"]).lower()))
        try:
            found = self.repository.templates.find(pattern)
        except SpecError as error:
            self.faults += [Fault(where=f"{self.where}: {where}", message=str(error.faults[0]))]
            return None
        if len(found) != 1:
            fault = self.repository.templates.choice_fault(pattern, found)
            self.fault(where, f"{pattern}: {fault.message}", fault.hint)
            return None
        arguments = row.get("args") or {}
        if isinstance(arguments, str):
            arguments = self._arguments(where, arguments)
        return self._new(found[0], str(row.get("instance") or MAIN), self.draft.parent, arguments)

    def _arguments(self, where: str, key: str) -> Mapping[str, Any]:
        """Return the answers that stand in another key, as `args:dep.args.web` has it."""
        document = self.draft.template.service
        for name in (key, key.removeprefix("service.")):
            if name in document:
                return document.table(name)
        if below := document.under(key):
            return dict(below)
        self.fault(where, f"args names {key}, which is not there", "add it, or leave args out")
        return {}

    def _new(
        self, template: Template, instance: str, parent: Service | None, arguments: Mapping[str, Any]
    ) -> Use:
        draft = make_draft(template, instance, parent, f"{self.draft.text} needs it", arguments)
        there = draft.text in self.repository.services
        return Use(template.role, draft.text, None if there else draft)


def build_or_runtime(
    document: Document, kind: str, where: str, faults: list[Fault]
) -> Iterator[dict[str, Any]]:
    """Yield the `dependencies.N` of a type, with the key of each as `where`; what is wrong goes to faults."""
    for number, row in document.numbered("dependencies").items():
        key = f"dependencies.{number}"
        if not isinstance(row, Mapping) or not row.get("name"):
            faults.append(
                Fault(
                    where=f"{where}: {key}", message="has no name", hint="name:TEMPLATE says what is needed"
                )
            )
        elif row.get("type", "runtime") not in ("", *TYPES):
            faults.append(
                Fault(where=f"{where}: {key}", message=f"type {row['type']!r} is neither runtime nor build")
            )
        elif (row.get("type") or "runtime") == kind:
            yield {**row, "where": key}


def schema_faults(draft: Draft) -> list[Fault]:
    """Return what the schema of a draft's template wants of its parent and its producers, and is not there:
    `consume:ROLE:LEAST:MOST`, `parent:ROLE`."""
    found = []
    for field in draft.template.schema.fields.values() if draft.template.schema else ():
        where = f"{draft.text}: {field.place}: {field.key}"
        if (
            field.parent
            and not field.optional
            and (draft.parent is None or draft.parent.id.role != field.parent)
        ):
            hint = f"--parent KEY names a service of the role {field.parent}"
            found.append(Fault(where=where, message=f"it lies in no {field.parent}", hint=hint))
        if (want := field.consume) is not None:
            count = len(draft.producers.get(want.role, ()))
            most = count if want.most is None else want.most
            least = 0 if field.optional else want.least
            if not least <= count <= most:
                limits = f"{least} to {most}" if want.most is not None else f"at least {least}"
                message = f"it uses {count} services of the role {want.role}, and {limits} are wanted"
                found.append(Fault(where=where, message=message, hint="--consume KEY names one"))
    return found


def _roles(document: Document, key: str) -> list[str]:
    return [str(role).lower() for role in document.items(key)] if key in document else []
