"""What services need: the one above, and those that they use; their order, and cycles with every member."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError

from buildstep.errors import Fault, SpecError
from buildstep.services.interface import ServiceError
from buildstep.services.repository import PRODUCER, Repository, Service
from buildstep.system.graphs import cycle_lines, levels, reached


@dataclass(frozen=True)
class Relations:
    """needs: the keys of the services that each service needs, by its key. reasons: why, by (needed, who
    needs it)."""

    needs: Mapping[str, Collection[str]]
    reasons: Mapping[tuple[str, str], str]

    def levels(self, keys: Iterable[str] | None = None) -> list[list[str]]:
        """Return services, all or those named, in levels: each needs only ones of earlier levels. Those of
        one level can be worked on at the same time; to stop, the levels are taken backwards.

        Raises ServiceError for a cycle, with every member of it and why it needs the next.
        """
        chosen = set(self.needs if keys is None else keys)
        needs = {key: set(self.needs[key]) & chosen for key in sorted(chosen)}
        try:
            return levels(needs)
        except CycleError:
            lines = cycle_lines(needs, self.reasons)
            raise ServiceError(
                "services need each other in a cycle",
                detail="\n".join(lines),
                hint="remove one of these needs: edit `producer.ROLE` in an instance.hrd",
            ) from None

    def order(self, keys: Iterable[str] | None = None) -> list[str]:
        """Return services so that each comes after what it needs. Raises as `levels` does."""
        return [key for level in self.levels(keys) for key in level]

    def needed_by(self, keys: Iterable[str]) -> set[str]:
        """Return all services that these need, near and far, without themselves."""
        return reached(keys, lambda key: self.needs.get(key, ()))

    def who_needs(self, keys: Iterable[str]) -> set[str]:
        """Return all services that need these, near and far, without themselves."""
        users: dict[str, list[str]] = {}
        for key, wanted in self.needs.items():
            for need in wanted:
                users.setdefault(need, []).append(key)
        return reached(keys, lambda key: users.get(key, ()))


def relations(repository: Repository, of: Iterable[str] | None = None) -> Relations:
    """Return what the services of a repository need, or some of them and all that these need, near and far.
    A producer that is not there is left out: see `Repository.use_faults`."""
    needs: dict[str, set[str]] = {}
    reasons: dict[tuple[str, str], str] = {}
    waiting = list(repository.services if of is None else of)
    while waiting:
        key = waiting.pop()
        if key in needs:
            continue
        needs[key] = set()
        for need, reason in _needs(repository.services[key]):
            if need in repository.services:
                needs[key].add(need)
                reasons.setdefault((need, key), reason)
                waiting.append(need)
    return Relations(needs, reasons)


def _needs(service: Service) -> Iterator[tuple[str, str]]:
    """Yield the key of each service that a service needs, and why."""
    if service.parent is not None:
        yield service.parent.key, "it lies in it"
    for role, keys in service.producers.items():
        yield from ((key, f"{PRODUCER}{role}") for key in keys)


def consume(repository: Repository, service: Service, producers: Iterable[Service]) -> dict[str, list[str]]:
    """Let a service use others; return what was added, by role. Every role of them is written.

    A producer that it uses already changes nothing. Raises SpecError, before anything is written, for
    services that would need each other in a cycle.
    """
    found = relations(repository)
    added: dict[str, list[str]] = {}
    faults = []
    now = service.producers
    for producer in producers:
        role = producer.id.role
        if producer is service or service.key in found.needed_by([producer.key]):
            ring = [service.key, *_way(found, producer.key, service.key)]
            hint = "a service cannot use one that needs it"
            faults.append(Fault(where=producer.key, message=f"makes a cycle: {' -> '.join(ring)}", hint=hint))
        elif producer.key not in now.get(role, []) and producer.key not in added.get(role, []):
            added.setdefault(role, []).append(producer.key)
    if faults:
        raise SpecError(f"service {service}", faults)
    if added:
        service.set({f"{PRODUCER}{role}": [*now.get(role, []), *keys] for role, keys in added.items()})
    return added


def _way(found: Relations, start: str, end: str) -> list[str]:
    """Return a way from a service to one that it needs, each needing the next."""
    way, seen = [start], {start}
    while way[-1] != end:
        step = next(
            (
                need
                for need in sorted(found.needs[way[-1]])
                if need == end or (need not in seen and end in found.needed_by([need]))
            ),
            None,
        )
        assert step is not None, (start, end)
        way.append(step)
        seen.add(step)
    return way
