"""All mappings as a text that a person edits: PATTERN: SERVICE, SERVICE; and what an edited text changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from buildstep.assets.interface import Register, Unmade
from buildstep.assets.map_check import check
from buildstep.assets.mapping import checked_pattern, checked_services
from buildstep.assets.values import mappings
from buildstep.errors import UsageError

FAULT: Final = "#! "
"""Begins a line that tells what is wrong with the next; it is left out when the text is read again."""

Table = Mapping[str, tuple[str, ...]]


class Edit(NamedTuple):
    """A mapping that is to change. None: no mapping."""

    pattern: str
    before: tuple[str, ...] | None
    after: tuple[str, ...] | None


@dataclass(slots=True)
class Edited:
    """What an edited text says. faults: what is wrong with it, each with the number of its line."""

    mappings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def text_of(url: str, table: Table) -> str:
    """Return the text to edit."""
    width = min(max((len(pattern) + 1 for pattern in table), default=0), 40)
    rows = [f"{f'{pattern}:':{width}} {', '.join(services)}".rstrip() for pattern, services in table.items()]
    head = [
        f"# Mappings of {url}: PATTERN: SERVICE, SERVICE",
        "# A line that is removed is a mapping that is removed. Lines that begin with # do not count.",
        "",
    ]
    return "\n".join([*head, *rows, ""])


def parse(text: str, before: Table) -> Edited:
    """Return what an edited text says. before: the mappings that it was made from; one that was left alone
    is taken as it is, also where it would be refused as new: others wrote it."""
    found = Edited()
    for number, line in enumerate(_lines(text), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pattern, colon, names = line.rpartition(":")
        pattern = pattern.strip()
        fault = ""
        if not colon:
            fault = "is not PATTERN: SERVICE, SERVICE"
        elif pattern in found.mappings:
            fault = f"{pattern!r} is mapped a second time"
        elif before.get(pattern) == tuple(filter(None, map(str.strip, names.split(",")))):
            found.mappings[pattern] = before[pattern]
        elif not names.strip():
            fault = f"{pattern!r} has no services; remove the line to remove the mapping"
        else:
            try:
                found.mappings[checked_pattern(pattern)] = checked_services([names])
            except UsageError as error:
                fault = f"{error.message} ({error.hint})"
        if fault:
            found.faults.append(f"line {number}: {fault}")
    return found


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith(FAULT)]


def with_faults(text: str, faults: list[str]) -> str:
    """Return a text with what is wrong before each line that it is wrong with."""
    by_line: dict[int, list[str]] = {}
    for fault in faults:
        at, _, what = fault.removeprefix("line ").partition(": ")
        by_line.setdefault(int(at), []).append(f"{FAULT}{what}")
    lines: list[str] = []
    for number, line in enumerate(_lines(text), 1):
        lines += [*by_line.get(number, []), line]
    return "\n".join([*lines, ""])


def before(register: Register) -> dict[str, tuple[str, ...]]:
    """Return the mappings to edit; none of a register that is still to be made. Raises RegisterError.

    A pattern that would be read again as a comment is not among them, and stays as it is.
    """
    try:
        services = register.read().services
    except Unmade:
        return {}
    return {pattern: names for pattern, names in services.items() if not pattern.lstrip().startswith("#")}


def differences(old: Table, new: Table) -> list[Edit]:
    """Return what is to change, by pattern."""
    return [
        Edit(pattern, old.get(pattern), new.get(pattern))
        for pattern in sorted({*old, *new})
        if old.get(pattern) != new.get(pattern)
    ]


def shown(edits: list[Edit]) -> Iterator[str]:
    """Yield edits for a person."""
    for one in edits:
        if one.before is not None:
            yield f"- {one.pattern}: {', '.join(one.before)}"
        if one.after is not None:
            yield f"+ {one.pattern}: {', '.join(one.after)}"


def new_findings(old: Table, new: Table, *, compat: bool) -> list[str]:
    """Return what the check finds in the new mappings, and did not in the old."""
    was = set(map(str, check(mappings(old), compat=compat)))
    now = map(str, check(mappings(new), compat=compat))
    return [text for text in now if text not in was]
