"""The inventory of an image: all databases are read, and what none of them owns is listed with its digest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from buildstep.trust.inventory.interface import Reading
from buildstep.trust.inventory.listing import unlisted
from buildstep.trust.inventory.model import Base, Component, Distro, Inventory, OwnFile, Source
from buildstep.trust.inventory.os_release import distro_of

_MOST_PLACES = 10_000
"""Places of one component that are kept."""

_OF_PACKAGES = frozenset(("", "base", "packages"))
"""Steps that bring a package's files as the package has them; another one brought something else there. Of a
layer that several steps made there are all of them, with commas."""


def inventory_of(
    source: Source,
    *,
    name: str,
    version: str = "",
    description: str = "",
    base: Base | None = None,
    digests: Mapping[str, str] | None = None,
    created: int | None = None,
) -> Inventory:
    """Return all that is known of what an image is made of, in an order of its own: the same tree gives the
    same inventory. What cannot be read is told in it and fails nothing: an image may hold anything."""
    from buildstep.trust.inventory import DATABASES

    reading = Reading(source, Distro())
    reading.distro = distro_of(reading)
    for row in DATABASES:
        DATABASES[row].read(reading)
    return Inventory(
        name=name,
        version=version,
        description=description,
        base=base,
        digests=dict(digests or {}),
        created=created,
        distro=reading.distro,
        components=_merged(reading.components),
        files=_own_files(reading),
        unknown=tuple(reading.unknown),
        complete=not reading.unknown,
    )


def _merged(components: Iterable[Component]) -> tuple[Component, ...]:
    """Return the components by name, each once: one that is there twice is one component at two places."""
    found: dict[str, list[Component]] = {}
    for component in components:
        found.setdefault(component.ref, []).append(component)
    joined = (rows[0] if len(rows) == 1 else _joined(rows) for rows in found.values())
    return tuple(sorted(joined, key=lambda row: (row.kind, row.name, row.version, row.ref)))


def _joined(rows: Sequence[Component]) -> Component:
    first = rows[0]
    places = dict.fromkeys(row.location for row in rows[1:_MOST_PLACES] if row.location)
    return replace(
        first,
        files=tuple(sorted({path for row in rows for path in row.files})),
        depends=tuple(sorted({ref for row in rows for ref in row.depends})),
        others=tuple(place for place in places if place != first.location),
    )


def _own_files(reading: Reading) -> tuple[OwnFile, ...]:
    """Return the files that no package owns, and those that took the place of a package's."""
    paths = [
        path
        for path in reading.paths
        if reading.entries[path].kind == "f"
        and (
            path not in reading.owned or _OF_PACKAGES.isdisjoint(reading.source.origin(path).step.split(", "))
        )
    ]
    origins = {path: reading.source.origin(path) for path in paths}
    whole = unlisted(Counter(origin.step for origin in origins.values()))
    listed = [path for path in paths if origins[path].step not in whole]
    known = {"sha256": reading.source.sha256(paths), "sha1": reading.source.sha1(listed)}
    return tuple(
        OwnFile(
            path=path,
            size=reading.entries[path].size,
            hashes={name: found[path] for name, found in known.items() if path in found},
            origin=origins[path],
        )
        for path in paths
    )
