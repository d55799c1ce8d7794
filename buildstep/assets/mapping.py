"""Changes of mappings that lose nothing: one is made again if others changed the same mapping meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from buildstep.assets.globs import Literal, Malformed, parse
from buildstep.assets.interface import Register, RegisterError
from buildstep.assets.names import checked_service, is_service
from buildstep.assets.values import no_service
from buildstep.errors import UsageError

ATTEMPTS: Final = 100
"""How often a change is tried. Each failure means that another one was made, so somebody gets on."""

LONGEST: Final = 512
"""Bytes of a pattern. Names of hosts have 253 characters at most."""

_PAUSE = 0.005
_LONGEST_PAUSE = 0.2


class Change(NamedTuple):
    """What a change did to a mapping. None: no mapping; unknown: of the names to remove, those not there;
    dropped, kept: what was wrong with the mapping before, and was left out by the change, or is there still
    as nothing had to be changed."""

    pattern: str
    before: tuple[str, ...] | None
    after: tuple[str, ...] | None
    unknown: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return self.before != self.after


def checked_pattern(pattern: str) -> str:
    """Return a pattern. Raises UsageError for one that can match no host, or that no register could hold."""
    reason = ""
    try:
        parts = parse(pattern)
        if not parts:
            reason = "it is empty"
        elif pattern in (".", ".."):
            reason = "no host is called so"
        elif any("/" in part.text for part in parts if isinstance(part, Literal)):
            reason = "no host has a / in its name"
    except Malformed as error:
        reason = str(error)
    if not reason and (not pattern.isprintable() or any(map(str.isspace, pattern))):
        reason = "it has blanks or signs that cannot be printed"
    if not reason and len(pattern.encode()) > LONGEST:
        reason = f"it is longer than {LONGEST} bytes"
    if reason:
        raise UsageError(
            f"{pattern!r} is no pattern for hosts: {reason}",
            hint=r"* ? [a-z] are wildcards; \ takes the next sign as it is",
        )
    return pattern


def checked_services(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of services, each once, sorted. Raises UsageError for one that no service can have.

    Blanks around a name are left out; a,b is two names, as it would be when daybook reads it again.
    """
    return tuple(map(checked_service, _split(names)))


def _split(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({part.strip() for name in names for part in name.split(",")}))


def add(register: Register, pattern: str, names: Iterable[str]) -> Change:
    """Add services to the mapping of a pattern, which is made if there is none. Raises RegisterError."""
    services = checked_services(names)
    checked_pattern(pattern)
    return _change(register, pattern, lambda before: tuple(sorted({*(before or ()), *services})))


def remove(register: Register, pattern: str, names: Iterable[str]) -> Change:
    """Remove services from the mapping of a pattern; without names, all. One without services is removed.

    A name that no service can have may be given as well: it can stand in a mapping that others wrote. Raises
    RegisterError if the pattern has no mapping.
    """
    given = _split(names)
    gone = set(given)

    def less(before: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if before is None:
            raise RegisterError(
                f"the pattern {pattern!r} has no mapping in {register.url}",
                hint="`buildstep map list` shows all",
            )
        rest = tuple(name for name in before if name not in gone)
        return rest if rest and gone else None

    done = _change(register, pattern, less, cleaning=not all(map(is_service, given)))
    there = {*(done.before or ()), *(name for name in given if no_service(pattern, name) in done.dropped)}
    return done._replace(unknown=tuple(name for name in given if name not in there))


def replace(
    register: Register, pattern: str, before: tuple[str, ...] | None, after: tuple[str, ...] | None
) -> bool:
    """Set the services of a pattern if they are still those of `before`; return whether they were."""
    there = register.load(pattern)
    if (there.services if there else None) != before:
        return False
    return register.swap(pattern, after, there.version if there else None)


def _change(
    register: Register,
    pattern: str,
    act: Callable[[tuple[str, ...] | None], tuple[str, ...] | None],
    *,
    cleaning: bool = False,
) -> Change:
    """Change the services of a pattern by a function of those that it has, however many others do so too.

    cleaning: also write a mapping anew that holds what is no service, and is right otherwise.
    """
    for attempt in range(ATTEMPTS):
        there = register.load(pattern)
        before = there.services if there else None
        after = act(before)
        faults = there.faults if there else ()
        if after == before and not (cleaning and faults):
            return Change(pattern, before, after, kept=faults)
        if register.swap(pattern, after, there.version if there else None):
            return Change(pattern, before, after, dropped=faults)
        # Never just the same for two who try at the same time.
        time.sleep(random.uniform(0, min(_PAUSE * 2.0**attempt, _LONGEST_PAUSE)))  # noqa: S311
    raise RegisterError(
        f"the mapping of {pattern!r} was changed by others {ATTEMPTS} times while it was to be changed here",
        hint="try again; what changes it without an end?",
        retryable=True,
    )
