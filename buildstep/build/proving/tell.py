"""The report of a proof for people: what is the same, and each difference with its cause and its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from buildstep.build.proving.compare import Difference
from buildstep.system.text import plural

MOST = 20
"""Paths of one cause that are told in a report for people; all are in the other one."""


def digests(first: Mapping[str, str], second: Mapping[str, str], names: tuple[str, str]) -> Iterator[str]:
    """Yield a line for each digest: one where both are the same, two where they differ."""
    for name in first:
        if first[name] == second.get(name):
            yield f"{name:12} {first[name]}"
        else:
            yield f"{name:12} {first[name]}  ({names[0]})"
            yield f"{'':12} {second.get(name, 'not there')}  ({names[1]})"


def differences(rows: Sequence[Difference]) -> Iterator[str]:
    """Yield lines about differences: those of one step, cause and remedy together."""
    for (step, package, kind, fix), group in groupby(sorted(rows, key=_key), key=_key):
        found = list(group)
        who = f"{step}: {package}" if package else step
        yield f"{kind}  [{who}]  {plural(len(found), 'path')}"
        for row in found[:MOST]:
            why = "; ".join(filter(None, (row.seen, _tried(row))))
            yield f"  {row.path}  {', '.join(row.what)}" + (f"  ({why})" if why else "")
        if len(found) > MOST:
            yield f"  and {len(found) - MOST} more"
        if fix:
            yield f"  -> {fix}"


def _tried(row: Difference) -> str:
    if not row.varied:
        return ""
    return "also with nothing varied" if row.varied == "nothing" else f"with {row.varied} alone varied"


def _key(row: Difference) -> tuple[str, str, str, str]:
    return row.step, row.package, row.kind, row.fix


def causes(rows: Iterable[Difference]) -> str:
    """Return how many differences there are of which class, in a line."""
    kinds = sorted(row.kind for row in rows)
    return ", ".join(f"{kind} {len(list(group))}" for kind, group in groupby(kinds))
