"""Checking services: everything that would be refused when they are installed, and nothing is run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from buildstep.errors import BuildstepError, SpecError
from buildstep.services.facts import facts_of
from buildstep.services.interface import ServiceError
from buildstep.services.platforms import unsupported
from buildstep.services.records import Book
from buildstep.services.relations import relations
from buildstep.services.repository import Repository, Service
from buildstep.services.template_check import Finding, of_fault


def check_services(repository: Repository, services: Iterable[Service]) -> list[Finding]:
    """Return all that is wrong with services: with their values and answers, with what they use, with the
    platform, and cycles among them."""
    chosen = list(services)
    found = list(_cycles(repository, chosen))
    cyclic = bool(found)
    for service in chosen:
        faults = list(repository.use_faults(service))
        found += map(of_fault, faults)
        if not faults and not cyclic:
            found += _facts(repository, service)
        if service.node is None and (reason := unsupported(service.template)):
            found.append(Finding(service.key, reason))
        found += _roles(service)
        found += _record(service)
    return list(dict.fromkeys(found))


def _record(service: Service) -> Iterator[Finding]:
    try:
        Book(lambda _: service.folder).load(service.key)
    except ServiceError as error:
        yield Finding(service.key, error.message, error.hint)


def _facts(repository: Repository, service: Service) -> Iterator[Finding]:
    try:
        facts_of(repository, service)
    except SpecError as error:
        yield from map(of_fault, error.faults)


def _cycles(repository: Repository, services: Sequence[Service]) -> Iterator[Finding]:
    try:
        relations(repository, [service.key for service in services]).levels()
    except BuildstepError as error:
        yield Finding(error.detail.strip(), error.message, error.hint)


def _roles(service: Service) -> Iterator[Finding]:
    """What the template says that the service uses, and it does not: the template changed, or the instance
    was edited."""
    producers = service.producers
    for key in ("dependencies.global", "dependencies.node"):
        for role in service.template.items(key) if key in service.template else ():
            if str(role).lower() not in producers:
                hint = f"buildstep service consume {service.key} KEY"
                yield Finding(f"{service.key}: {key}", f"it uses no service of the role {role}", hint)
