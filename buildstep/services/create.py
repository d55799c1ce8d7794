"""Creating services: everything is decided and checked first, then each is written whole.

What is created: the service itself, and those that its template needs on the same node and that are not
there yet. The faults of all of them, unanswered questions among them, are one error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from buildstep.errors import Fault, SpecError
from buildstep.services import platforms
from buildstep.services.answers import Answers
from buildstep.services.create_requests import Draft, Request, make_draft
from buildstep.services.dependencies import schema_faults, uses
from buildstep.services.interface import Key
from buildstep.services.keys import WORD, WORD_TEXT
from buildstep.services.questions import fill, unknown
from buildstep.services.repository import Repository, Service, Tell, folder_name
from buildstep.services.write import write


def plan(repository: Repository, request: Request) -> list[Draft]:
    """Return what is to be written for a request, each after what it needs; nothing is changed.

    Raises SpecError with every fault.
    """
    planner = _Planner(repository, request.answers)
    planner.request(request)
    drafts = list(planner.drafts.values())
    if not planner.faults:
        asked = drafts[-1]
        planner.faults += unknown(drafts, asked, request.answers)
        for draft in drafts:
            planner.faults += fill(draft, request.answers, request.prompt, asked=draft is asked)
    if planner.faults:
        raise SpecError(f"cannot create {request.template}!{request.instance}", planner.faults)
    return drafts


class Made(NamedTuple):
    """A service that was created, and why."""

    service: Service
    reason: str


def create(repository: Repository, request: Request, tell: Tell | None = None) -> list[Made]:
    """Create the service of a request and those that it needs on its node; return them, itself last.

    The repository is read again under its lock. tell: is told of a wait for it. Raises SpecError with every
    fault, before anything is written; OSError.
    """
    with repository.lock(tell):
        repository.reload()
        drafts = plan(repository, request)
        return [
            Made(service, draft.reason)
            for service, draft in zip(write(repository, drafts), drafts, strict=True)
        ]


class _Planner:
    """drafts: by key, in the order in which they are written. faults: all that is wrong."""

    def __init__(self, repository: Repository, answers: Answers) -> None:
        self.repository = repository
        self.answers = answers
        self.drafts: dict[str, Draft] = {}
        self.faults: list[Fault] = []

    def fault(self, where: str, message: str, hint: str = "") -> None:
        self.faults.append(Fault(where=where, message=message, hint=hint))

    def request(self, request: Request) -> None:
        found = self.repository.templates.find(request.template)
        if len(found) != 1:
            self.faults.append(self.repository.templates.choice_fault(request.template, found))
        parent = self._service(request.parent) if request.parent else None
        used = [service for text in request.consume if (service := self._service(text))]
        if self.faults:
            return
        producers: dict[str, list[str]] = {}
        for service in used:
            keys = producers.setdefault(service.id.role, [])
            if service.key not in keys:
                keys.append(service.key)
        draft = make_draft(found[0], request.instance, parent, "it was asked for")
        draft.producers.update(producers)
        if draft.text in self.repository.services:
            self.fault(draft.text, "is there already", "`buildstep service update` takes a changed template")
            return
        self.add(draft, ())

    def _service(self, text: str) -> Service | None:
        try:
            return self.repository.one(text)
        except SpecError as error:
            self.faults += error.faults
            return None

    def add(self, draft: Draft, chain: Sequence[str]) -> None:
        """Check a draft, add those that it needs before it, and then itself. chain: who needs it."""
        if draft.text in chain:
            ring = [*chain[chain.index(draft.text) :], draft.text]
            hint = "remove one of the dependencies"
            self.fault(draft.text, f"templates need each other in a cycle: {' -> '.join(ring)}", hint)
            return
        if draft.text in self.drafts or not self._allowed(draft):
            return
        chain = [*chain, draft.text]
        if (node := draft.node) and "node" not in draft.producers:
            draft.producers["node"] = [node.key]
        for use in uses(self.repository, self.drafts, draft, self.faults):
            if use.draft is not None:
                self.add(use.draft, chain)
            keys = draft.producers.setdefault(use.role, [])
            if use.key not in keys:
                keys.append(use.key)
        self.faults += schema_faults(draft)
        self.drafts[draft.text] = draft

    def _allowed(self, draft: Draft) -> bool:
        before = len(self.faults)
        name = draft.text
        if not WORD.fullmatch(draft.key.instance):
            self.fault(name, f"{draft.key.instance!r} is no name of an instance", WORD_TEXT)
        for other, key in self._beside(draft):
            if folder_name(key) == folder_name(draft.key):
                hint = "choose another name for the instance"
                self.fault(name, f"{other} has the role {key.role} and this instance too", hint)
        try:
            service = draft.template.service
            draft.template.instance, draft.template.schema  # noqa: B018 - for their faults
        except SpecError as error:
            self.faults += error.faults
            return False
        where = f"template {draft.template}"
        try:
            limit = service.integer("instances.maxnr") if "instances.maxnr" in service else 0
        except SpecError as error:
            self.faults += error.faults
            return False
        there = self._count(draft)
        if limit and there >= limit:
            self.fault(where, f"instances.maxnr is {limit}, and {there} are there", "remove one of them")
        if draft.node is None and (reason := platforms.unsupported(service)):
            self.fault(where, reason)
        return len(self.faults) == before

    def _beside(self, draft: Draft) -> list[tuple[str, Key]]:
        """The services that lie where a draft will."""
        parent = draft.parent.key if draft.parent else ""
        there = [
            (service.key, service.id)
            for service in self.repository.services.values()
            if (service.parent.key if service.parent else "") == parent and service.key != draft.text
        ]
        new = [
            (other.text, other.key)
            for other in self.drafts.values()
            if (other.parent.key if other.parent else "") == parent
        ]
        return there + new

    def _count(self, draft: Draft) -> int:
        """The services of a draft's template on its node."""
        same = (draft.key.domain, draft.key.name)
        there = [(service.id, service.node) for service in self.repository.services.values()]
        there += [(other.key, other.node) for other in self.drafts.values()]
        return sum((key.domain, key.name) == same and node is draft.node for key, node in there)
