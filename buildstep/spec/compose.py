"""Put an m.json together: the files that it includes, in the order that it tells, then itself, then profiles.

What comes later wins: objects are merged by their keys, any other value is replaced, and `null` takes away
what was there (as JSON Merge Patch does, RFC 7396). A key that ends in `+` adds to the list of that name,
which merge patches cannot say.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault, SpecError
from buildstep.spec.schema import array, at, check, mapping, near, text

INCLUDE: Final = "include"
PROFILES: Final = "profiles"

INCLUDE_RULE: Final = {
    **array(text(r"[^\x00-\x1f\x7f]+", say="a path"), unique=True),
    "description": "Files that come before this one, in this order; paths are relative to this file.",
}
PROFILES_RULE: Final = {
    **mapping({"type": "object"}, keys=text(r"[A-Za-z0-9][A-Za-z0-9._-]*", say="made of A-Z a-z 0-9 . _ -")),
    "description": "Variants by name: what `--profile NAME` merges over the rest.",
}
_RULES: Final = {INCLUDE: INCLUDE_RULE, PROFILES: PROFILES_RULE}
_ADD: Final = "+"
_MOST: Final = 64
"""Files that are included one in the other."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of an m.json, read. source: as messages call it; folder: its paths are relative to that."""

    source: str
    folder: Path
    value: object


Read = Callable[[str, Path], Part]
"""Reads an included file, as its name is written in a folder. Raises SpecError."""


@dataclass(slots=True)
class Composed:
    """An m.json that is one value. origins: which file each value came from, by its place (`$.build.image`);
    those of objects are the first file that has one."""

    value: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def origin(self, where: str) -> str:
        """Return the file that the value at a place came from; empty where no file has one."""
        while where:
            if where in self.origins:
                return self.origins[where]
            where = where[: max(where.rfind("."), where.rfind("["), 0)]
        return ""


def is_composed(value: object, profiles: Sequence[str]) -> bool:
    """Say whether there is anything to put together."""
    return bool(profiles) or (isinstance(value, dict) and (INCLUDE in value or PROFILES in value))


def compose(main: Part, read: Read, profiles: Sequence[str] = ()) -> Composed:
    """Return an m.json with what it includes and the profiles that are chosen, in their order.

    Errors: SpecError with every fault: a file that cannot be read, files that include each other (each of
    them named), a profile that nobody has, a key with `+` that has no list.
    """
    faults: list[Fault] = []
    parts = list(_in_order(main, read, (_identity(main.folder, main.source),), faults))
    found = Composed()
    variants: dict[str, list[Part]] = {}
    for part in parts:
        assert isinstance(part.value, dict)
        own = {name: value for name, value in part.value.items() if name not in _RULES}
        faults += _merge(found, found.value, own, "$", part.source)
        for name, value in part.value.get(PROFILES, {}).items():
            variants.setdefault(name, []).append(Part(part.source, part.folder, value))
    for name in profiles:
        if name not in variants and not faults:
            hint = near(name, variants) or (
                f"there are {', '.join(variants)}" if variants else "there are none"
            )
            faults.append(Fault(where="--profile", message=f"there is no profile {name}", hint=hint))
        for part in variants.get(name, ()):
            assert isinstance(part.value, dict)
            faults += _merge(found, found.value, part.value, "$", f"{part.source}, profile {name}")
    if faults:
        raise SpecError(main.source, faults)
    return found


def _in_order(part: Part, read: Read, path: tuple[str, ...], faults: list[Fault]) -> Iterator[Part]:
    """Yield the files that a file includes, each after those that it includes, and then itself.

    path: of the files that led here. faults: gets what is wrong with any of them; a file with faults is left
    out, what it includes is not.
    """
    prefix = f"{part.source}: " if len(path) > 1 else ""
    wrong = _faults(part)
    faults += [replace(fault, where=prefix + fault.where) for fault in wrong]
    names = part.value.get(INCLUDE, []) if isinstance(part.value, dict) else []
    if check(names, INCLUDE_RULE, ""):
        names = []  # it is a fault already
    for index, name in enumerate(names):
        where = prefix + at(f"$.{INCLUDE}", index)
        identity = _identity(part.folder, name)
        if identity in path:
            circle = " -> ".join(os.path.basename(step) for step in (*path[path.index(identity) :], identity))
            faults.append(Fault(where=where, message=f"the files include each other: {circle}"))
            continue
        if len(path) == _MOST:
            faults.append(
                Fault(where=where, message=f"is the {_MOST + 1}th file that is included in another")
            )
            continue
        try:
            included = read(name, part.folder)
        except SpecError as error:
            named = f"{where}, {name}"
            faults += [
                replace(row, where=named if row.where == error.source else f"{named}: {row.where}")
                for row in error.faults
            ]
            continue
        yield from _in_order(included, read, (*path, identity), faults)
    if not wrong:
        yield part


def _faults(part: Part) -> list[Fault]:
    """Return what is wrong with a file before it is merged."""
    faults = check(part.value, {"type": "object"}, "$")
    if isinstance(part.value, dict):
        for name, rule in _RULES.items():
            if name in part.value:
                faults += check(part.value[name], rule, at("$", name))
        variants = part.value.get(PROFILES)
        for name, value in variants.items() if isinstance(variants, dict) else ():
            for word in _RULES:
                if isinstance(value, dict) and word in value:
                    where = at(at(at("$", PROFILES), name), word)
                    faults.append(Fault(where=where, message=f"a profile has no {word} of its own"))
    return faults


def _identity(folder: Path, name: str) -> str:
    return os.path.realpath(folder / name)


# -- merging -------------------------------------------------------------------------------------------------


def _merge(
    found: Composed, into: dict[str, Any], patch: Mapping[str, Any], where: str, source: str
) -> Iterator[Fault]:
    """Lay one object over another. Yields what cannot be merged."""
    for name, value in patch.items():
        if name.endswith(_ADD) and len(name) > 1:
            yield from _add(found, into, (name[:-1], value), where, source)
            continue
        place = at(where, name)
        there = into.get(name)
        if isinstance(value, dict) and isinstance(there, dict):
            yield from _merge(found, there, value, place, source)
        elif value is None and name in into:
            del into[name]
            _forget(found, place)
        else:
            _forget(found, place)
            found.origins[place] = source
            if isinstance(value, dict):
                into[name] = {}
                yield from _merge(found, into[name], value, place, source)
            else:
                into[name] = list(value) if isinstance(value, list) else value


def _add(
    found: Composed, into: dict[str, Any], more: tuple[str, object], where: str, source: str
) -> Iterator[Fault]:
    """Add to a list what it has not; of an entry the later file is told."""
    name, values = more
    place = at(where, name)
    if not isinstance(values, list):
        yield Fault(where=f"{place}+", message="adds to a list, and is none", hint=f"[...], or {name} alone")
        return
    there = into.setdefault(name, [])
    if not isinstance(there, list):
        yield Fault(where=f"{place}+", message=f"adds to {name}, which is no list")
        return
    for value in values:
        if value not in there:
            found.origins[at(place, len(there))] = source
            there.append(value)


def _forget(found: Composed, place: str) -> None:
    """What is replaced has no origin any more, nor has anything in it."""
    for key in [key for key in found.origins if key == place or key.startswith((f"{place}.", f"{place}["))]:
        del found.origins[key]
