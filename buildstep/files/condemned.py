"""What the next garbage collection will delete: how it and writers agree on it.

`gc/condemned` is a name that can change, with a JSON object: `generation`, a number that grows with every
collection; `names`, each with the generation that condemned it; `deleting`: the names that are being deleted
now; `by`: the lease of the one who deletes, or will. Everything that can be deleted is condemned first.

A writer makes its lease, reads this, and takes what is condemned for absent. A collection deletes what was
condemned in a generation that every live lease saw, so nobody relies on it. A writer that must write a name
which is condemned takes it off the list first (`rescue`), or waits where it is being deleted. A reader's
lease has seen nothing, so that as long as it is there nothing more is deleted. The steps of a collection, and
why each is where it is: `gc`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from buildstep.errors import StoreError
from buildstep.files import catalogue, layout, leases
from buildstep.files.interface import Storage
from buildstep.files.layout import CONDEMNED
from buildstep.files.leases import Lease

_PAUSE = 0.1
_BATCH = 1000
"""Names that are deleted before the lease is renewed."""
_PATIENCE = leases.TTL + 60
"""Seconds that a writer waits for a deletion to end, or for the lease of its owner, who is dead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condemned:
    """The list. names: to the generation that condemned each; deleting: going now; by: whose lease, empty
    while nobody deletes."""

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


class Claimed(StoreError):
    """Somebody else changes what the store has at the moment. by: the name of the lease."""

    def __init__(self, storage: Storage, by: str) -> None:
        super().__init__(
            f"{leases.whose(storage, by)} deletes from {storage.url} at the moment",
            hint="try again when it has ended",
            retryable=True,
        )
        self.by = by


def claim(storage: Storage, lease: Lease) -> Condemned:
    """Become the only one who deletes; return the list. Raises Claimed if somebody else is, StoreError.

    What is `deleting` then was left by somebody who is dead: `delete` ends it.
    """

    def take(list_: Condemned) -> Condemned:
        if list_.by not in ("", lease.name) and not leases.is_over(storage, list_.by):
            raise Claimed(storage, list_.by)
        return replace(list_, by=lease.name)

    return change(storage, take)


def delete(storage: Storage, list_: Condemned, lease: Lease) -> None:
    """Delete what the list says is `deleting`, which the caller has claimed. Raises LeaseLost, StoreError."""
    names = sorted(list_.deleting)
    parsed = [name for name in map(layout.parse, names) if name is not None and name.kind == "packs"]
    if parsed:
        catalogue.change(storage, remove=[name.digest for name in parsed])
    for begin in range(0, len(names), _BATCH):
        # Once the lease is over another one may end this, and others write the same names again.
        lease.renew()
        storage.delete(names[begin : begin + _BATCH])
    change(storage, lambda now: replace(owned(now, lease), deleting=frozenset()))


def release(storage: Storage, lease: Lease) -> None:
    """End what `claim` began. Raises StoreError."""
    change(storage, lambda now: replace(now, by="") if now.by == lease.name and not now.deleting else now)


def rescue(storage: Storage, names: Collection[str], lease: Lease) -> None:
    """Take names off the list, so that they can be relied on again. lease: of the caller.

    Waits for names that are being deleted until they are gone; a deletion whose owner is dead is completed.
    Raises LeaseLost, StoreError.
    """
    wanted = set(names)
    until = time.monotonic() + _PATIENCE
    while True:
        now = change(storage, lambda list_: _without(list_, wanted))
        if wanted.isdisjoint(now.deleting):
            return
        try:
            # Two writers that both end a deletion would delete what one of them has written again.
            delete(storage, claim(storage, lease), lease)
            release(storage, lease)
        except Claimed:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE)


def owned(list_: Condemned, lease: Lease) -> Condemned:
    """Return the list if the owner of this lease has claimed it. Raises LeaseLost."""
    if list_.by != lease.name:
        raise leases.lost(lease.name)
    return list_


def _without(list_: Condemned, names: set[str]) -> Condemned:
    if names.isdisjoint(list_.names):
        return list_
    return replace(list_, names={name: at for name, at in list_.names.items() if name not in names})
