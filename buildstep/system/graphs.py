"""Graphs of names: levels, cycles with every member, and what can be reached; `graphlib` orders them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter


def levels(needs: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return names in levels, each level sorted: each needs only names of earlier levels. Raises
    graphlib.CycleError."""
    sorter = TopologicalSorter(needs)
    sorter.prepare()
    found = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found.append(ready)
        sorter.done(*ready)
    return found


def cycles(needs: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the cycles of a graph, those that share no member with one before. In each, every name is needed
    by the next, and the last by the first; it begins with the first by name."""
    rings: list[list[str]] = []
    while True:
        try:
            levels(needs)
        except CycleError as error:
            ring: list[str] = error.args[1][:-1]
        else:
            return rings
        begin = ring.index(min(ring))
        rings.append([*ring[begin:], *ring[:begin]])
        needs = {
            name: {need for need in wants if need not in ring}
            for name, wants in needs.items()
            if name not in ring
        }


def cycle_lines(needs: Mapping[str, Iterable[str]], reasons: Mapping[tuple[str, str], str]) -> list[str]:
    """Return the cycles of a graph for a message: a line with the members of each, then why each needs the
    one before. reasons: by (needed, who needs it)."""
    lines = []
    for ring in cycles(needs):
        lines.append(f"  {' -> '.join([*ring, ring[0]])}")
        for provider, consumer in zip(ring, [*ring[1:], ring[0]], strict=True):
            lines.append(f"    {consumer} needs {provider}: {reasons[provider, consumer]}")
    return lines


def reached(names: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    """Return what can be reached from names, without the names themselves."""
    given = set(names)
    found: set[str] = set()
    waiting = list(given)
    while waiting:
        for name in following(waiting.pop()):
            if name not in found and name not in given:
                found.add(name)
                waiting.append(name)
    return found
