"""The services of a mapping as somebody wrote them, and the mark of a reading that says the same."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping

from buildstep.assets.interface import Mappings
from buildstep.assets.names import is_service


def sifted(pattern: str, names: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the services of a mapping as somebody wrote it, sorted, each once; and what is wrong with it.

    Names are trimmed, as daybook does when it reads. A name that no service can have is left out and told:
    asked for, it could stand for another service, or for all.
    """
    given = tuple(names)
    found, wrong = _parted(given)
    faults = [no_service(pattern, name) for name in wrong]
    if not given:
        faults.append(f"{pattern!r}: has no services")
    return found, faults


def no_service(pattern: str, name: str) -> str:
    """Return the fault of a mapping that has a name that no service can have."""
    return f"{pattern!r}: {name!r} is no name of a service"


@functools.lru_cache(4096)  # in a large register many mappings are the same
def _parted(given: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the services among some names, sorted, and what is none."""
    names = dict.fromkeys(name.strip() for name in given)
    found = tuple(sorted(filter(is_service, names)))
    return found, tuple(name for name in names if not is_service(name))


def digest(services: Mapping[str, tuple[str, ...]], faults: Iterable[str] = ()) -> str:
    """Return what two readings have in common that say the same."""
    text = json.dumps([sorted(services.items()), sorted(faults)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def mappings(rows: Mapping[str, Iterable[str]], *, faults: Iterable[str] = ()) -> Mappings:
    """Return the mappings of what a register holds, by pattern."""
    services: dict[str, tuple[str, ...]] = {}
    told = list(faults)
    for pattern, names in sorted(rows.items()):
        services[pattern], wrong = sifted(pattern, names)
        told += wrong
    return Mappings(services=services, index=digest(services, told), faults=tuple(told))
