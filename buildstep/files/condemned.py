"""What the next garbage collection will delete: how it and writers agree on it.

`gc/condemned` is a name that can change, with a JSON object: `generation`, a number that grows with every
collection; `names`, each with the generation that condemned it; `deleting`: the names that are being deleted
now, and by whose lease. Everything that can be deleted is condemned first.

A writer makes its lease, reads this, and takes what is condemned for absent. A collection deletes what was
condemned in a generation that every live lease saw, so nobody relies on it. A writer that must write a name
which is condemned takes it off the list first (`rescue`), or waits where it is being deleted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from buildstep.errors import StoreError
from buildstep.files.interface import Storage
from buildstep.files.layout import CONDEMNED

_PAUSE = 0.1
_PATIENCE = 600.0
"""Seconds that a writer waits for a deletion to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condemned:
    """The list. names: to the generation that condemned each; deleting: going now; by: whose lease."""

    generation: int = 0
    names: Mapping[str, int] = field(default_factory=dict)
    deleting: frozenset[str] = frozenset()
    by: str = ""
    version: str | None = field(default=None, compare=False)

    def __contains__(self, name: str) -> bool:
        return name in self.names or name in self.deleting


def read(storage: Storage) -> Condemned:
    """Return the list. Raises StoreError."""
    there = storage.load(CONDEMNED)
    if there is None:
        return Condemned()
    try:
        value = json.loads(there.data)
        return Condemned(
            generation=int(value["generation"]),
            names={str(name): int(number) for name, number in value["names"].items()},
            deleting=frozenset(map(str, value["deleting"])),
            by=str(value["by"]),
            version=there.version,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{CONDEMNED} of {storage.url} cannot be read: {error}",
            hint="while nobody uses the store, this file can be removed: it only says what may be deleted",
        ) from error


def change(storage: Storage, how: Callable[[Condemned], Condemned]) -> Condemned:
    """Change the list by a function of it, called again where somebody else was faster. Return the new one.

    Raises StoreError, and what the function raises.
    """
    while True:
        before = read(storage)
        after = how(before)
        if after == before:
            return before
        value = {
            "generation": after.generation,
            "names": dict(after.names),
            "deleting": sorted(after.deleting),
            "by": after.by,
        }
        if storage.swap(CONDEMNED, json.dumps(value).encode(), before.version):
            return after
        time.sleep(_PAUSE / 10)


def rescue(storage: Storage, names: Collection[str], ended: Callable[[str], bool]) -> None:
    """Take names off the list, so that they can be relied on again; whoever calls has a lease.

    ended: tells whether a lease is over. Waits for names that are being deleted until they are gone; a
    deletion whose owner is dead is completed. Raises StoreError.
    """
    wanted = set(names)
    until = time.monotonic() + _PATIENCE
    while True:
        now = change(storage, lambda list_: _without(list_, wanted))
        busy = wanted & now.deleting
        if not busy:
            return
        if ended(now.by):
            storage.delete(now.deleting)
            change(storage, lambda list_, by=now.by: finished(list_, by))  # type: ignore[misc]
        elif time.monotonic() > until:
            raise StoreError(
                f"{storage.url}: a garbage collection deletes what is written, since {_PATIENCE:.0f} s",
                retryable=True,
            )
        else:
            time.sleep(_PAUSE)


def finished(list_: Condemned, by: str) -> Condemned:
    """Return the list after the owner of this lease has deleted what it was deleting."""
    return replace(list_, deleting=frozenset(), by="") if list_.by == by else list_


def _without(list_: Condemned, names: set[str]) -> Condemned:
    if names.isdisjoint(list_.names):
        return list_
    return replace(list_, names={name: at for name, at in list_.names.items() if name not in names})
