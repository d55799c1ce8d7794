"""Refs: names that can change, each with the list, or the contents, that it keeps from garbage collection."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from buildstep.errors import StoreError
from buildstep.files import layout
from buildstep.files.interface import Storage

FORMAT = 1


class RefChanged(StoreError):
    """A ref is not any more what it was when it was read."""


class NoRef(StoreError):
    """There is no ref of that name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ref:
    """What a ref says. name: such as `web/1.2.0`.

    list: the digest of a stored list; tree: the tree digest of it, which is that of an image; entries, size:
    how many paths it has and the bytes of their contents. contents: further contents to keep, by digest.
    created: seconds since the epoch. notes: what its writer wants to remember, such as where it is from.
    version: of the name, as `swap` compares it; empty for a ref that is not stored yet.
    """

    name: str
    list: str = ""
    tree: str = ""
    entries: int = 0
    size: int = 0
    contents: tuple[str, ...] = ()
    created: float = field(default_factory=time.time)
    notes: Mapping[str, Any] = field(default_factory=dict)
    version: str = field(default="", compare=False)


def read(storage: Storage, name: str) -> Ref | None:
    """Return a ref; None if there is none. Raises StoreError, UsageError for a name that no ref can have."""
    there = storage.load(layout.ref_name(name))
    return None if there is None else _parse(name, there.data, there.version)


def get(storage: Storage, name: str) -> Ref:
    """Return a ref. Raises NoRef, and as `read`."""
    found = read(storage, name)
    if found is None:
        raise NoRef(f"{storage.url} has no ref {name!r}", hint="`buildstep files list` shows what there is")
    return found


def every(storage: Storage) -> Iterator[Ref]:
    """Yield all refs. Raises StoreError."""
    for item in storage.list(layout.REFS):
        there = storage.load(item.name)
        if there is not None:
            name = layout.ref_of(item.name)
            yield _parse(name, there.data, there.version)


def write(storage: Storage, ref: Ref, before: Ref | None) -> None:
    """Set a ref, if it is still as it was. before: what was read, None where there was none.

    Raises RefChanged, StoreError.
    """
    value = {"format": FORMAT, **asdict(ref)}
    del value["name"], value["version"]
    data = json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"
    if not storage.swap(layout.ref_name(ref.name), data, before.version if before else None):
        there = storage.load(layout.ref_name(ref.name))
        if there is not None and there.data == data:  # our own call, repeated after a lost response
            return
        raise RefChanged(
            f"the ref {ref.name!r} of {storage.url} was changed by somebody else meanwhile", retryable=True
        )


def remove(storage: Storage, ref: Ref) -> None:
    """Remove a ref that was read, if it is still so. Raises RefChanged, StoreError."""
    if not storage.swap(layout.ref_name(ref.name), None, ref.version):
        raise RefChanged(f"the ref {ref.name!r} of {storage.url} was changed by somebody else meanwhile")


def _parse(name: str, data: bytes, version: str) -> Ref:
    try:
        value = json.loads(data)
        if value.pop("format") != FORMAT:
            raise ValueError("its format is of another version")
        value["contents"] = tuple(value["contents"])
        value["created"] = float(value["created"])
        found = Ref(name=name, version=version, **value)
        if not all(map(layout.is_digest, (*filter(None, (found.list, found.tree)), *found.contents))):
            raise ValueError("it has a digest that is none")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"the ref {name!r} cannot be read: {error}") from error
    return found
