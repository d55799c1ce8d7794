"""The services of a mapping as somebody wrote them, and the mark of a reading that says the same."""

from __future__ import annotations

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
    given = [name.strip() for name in names]
    found = sorted({name for name in given if is_service(name)})
    faults = [
        f"{pattern!r}: {name!r} is no name of a service" for name in dict.fromkeys(given) if name not in found
    ]
    if not given:
        faults.append(f"{pattern!r}: has no services")
    return tuple(found), faults


def digest(services: Mapping[str, tuple[str, ...]], faults: Iterable[str] = ()) -> str:
    """Return what two readings have in common that say the same."""
    text = json.dumps([sorted(services.items()), sorted(faults)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def mappings(rows: Mapping[str, Iterable[str]], *, mark: str = "", faults: Iterable[str] = ()) -> Mappings:
    """Return the mappings of what a register holds, by pattern. mark: stands in front of the index."""
    services: dict[str, tuple[str, ...]] = {}
    told = list(faults)
    for pattern, names in sorted(rows.items()):
        services[pattern], wrong = sifted(pattern, names)
        told += wrong
    return Mappings(services=services, index=f"{mark}{digest(services, told)}", faults=tuple(told))
