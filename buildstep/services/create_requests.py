"""What is to be created: a request, and the services that are to be written for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from buildstep.services.answers import Answers, Prompt, named
from buildstep.services.hrd import Document
from buildstep.services.interface import Key
from buildstep.services.repository import Service
from buildstep.services.templates import Template

MAIN = "main"
"""The instance that is meant where none is named."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be created. template: a pattern for one; parent: the key of the service to lie in, "" for
    none; consume: keys of services that it uses. prompt: asks a person, None where nobody can be asked."""

    template: str
    instance: str = MAIN
    parent: str = ""
    consume: Sequence[str] = ()
    answers: Answers = field(default_factory=Answers)
    prompt: Prompt | None = None


@dataclass(kw_only=True)
class Draft:
    """A service that is to be written. arguments: answers of the template that needs it; reason: why it is
    created; instance: its instance.hrd, once it is filled in."""

    template: Template
    key: Key
    parent: Service | None
    producers: dict[str, list[str]]
    arguments: Mapping[str, Any]
    reason: str
    instance: Document | None = None

    @property
    def text(self) -> str:
        """Its key in the repository."""
        own = f"{self.key.name}!{self.key.instance}"
        return f"{self.parent.key}:{own}" if self.parent else own

    def named(self, full: str) -> str:
        """Return what names it before a parameter, see `answers.named`."""
        return named(self.key, full)

    @property
    def node(self) -> Service | None:
        """The service with the role `node` that it runs on; None: here."""
        return _node(self.parent)


def make_draft(
    template: Template,
    instance: str,
    parent: Service | None,
    reason: str,
    arguments: Mapping[str, Any] | None = None,
) -> Draft:
    """Return a draft. An instance that is left at `main` has the name of the one that it lies in."""
    name = parent.id.instance if parent and instance == MAIN else instance.lower()
    key = Key(
        domain=template.domain,
        name=template.name,
        instance=name,
        role=template.role,
        version=template.version,
    )
    return Draft(
        template=template, key=key, parent=parent, producers={}, arguments=arguments or {}, reason=reason
    )


def _node(parent: Service | None) -> Service | None:
    if parent is None or parent.id.role == "node":
        return parent
    return parent.node
