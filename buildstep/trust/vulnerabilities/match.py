"""What databases know of the packages of an image. The key is the source package and its version where there
is one: that is what distributions write advisories about."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildstep.errors import NoDatabaseError
from buildstep.system.text import plural
from buildstep.trust.inventory.model import Component, Inventory
from buildstep.trust.vulnerabilities import directory, ranges, scopes
from buildstep.trust.vulnerabilities.database import Key
from buildstep.trust.vulnerabilities.directory import Known
from buildstep.trust.vulnerabilities.feeds import pkgsrc
from buildstep.trust.vulnerabilities.model import LEVELS, Advisory, Feed, Found, Gate, Matter, Result
from buildstep.trust.vulnerabilities.orders import compare


def scan(inventory: Inventory, folder: Path, gate: Gate, *, now: float) -> Result:
    """Return what the databases in a directory know of an image.

    Raises NoDatabaseError where there is none, or none for the system of the image: nothing is known
    then; and where one is older, or packages have none, than `gate` allows.
    """
    found, notes = Looked(), list[str]()
    asked = list(matters(inventory))
    with directory.opened(folder, {key for matter in asked for key in _keys(matter)}, notes.append) as known:
        covered = [matter for matter in asked if any(matter.scope in one.scopes for one in known)]
        missing = _uncovered(inventory, covered)
        _demand(inventory, missing, [one.feed for one in known], folder, gate)
        _demand_packages(inventory, gate)
        for matter, rows in _advisories(known, covered):
            found.look(matter, rows)
        scopes_here = {matter.scope for matter in covered}
        feeds = tuple(one.feed for one in known if scopes_here & one.scopes)
    demand_fresh(feeds, gate, now)
    notes += inventory.unknown
    notes += [
        f"no database here knows of {plural(count, f'{kind} package')}: they were not looked at"
        for kind, count in sorted(missing.items())
    ]
    if not covered:
        notes.append("no package was looked up: whatever is in it, nothing is known of it")
    if found.strange:
        notes.append(f"versions that cannot be compared: {', '.join(sorted(found.strange))}")
    return Result(
        name=inventory.name, version=inventory.version, digests=inventory.digests,
        found=tuple(sorted(found.found, key=_order)), feeds=feeds, matters=len(covered), uncovered=missing,
        notes=tuple(notes), started=now,
    )  # fmt: skip


def matters(inventory: Inventory) -> Iterator[Matter]:
    """Yield what advisories may be about, each once, in order."""
    system = scopes.of_system(inventory.distro)
    grouped: dict[tuple[str, str, str, str], list[Component]] = {}
    for component in inventory.components:
        if component.kind not in scopes.SYSTEMS and component.kind not in scopes.LANGUAGES:
            continue
        scope = scopes.of_component(component, system)
        name, version = _name_and_version(component)
        grouped.setdefault((scope, component.kind, scopes.normal_name(scope, name), version), []).append(
            component
        )
    for (scope, kind, name, version), components in sorted(grouped.items()):
        yield Matter(
            kind=kind, scope=scope, name=name, version=version,
            packages=tuple(sorted({component.name for component in components})),
            refs=tuple(sorted({component.ref for component in components})),
        )  # fmt: skip


def _name_and_version(component: Component) -> tuple[str, str]:
    if component.kind in ("deb", "apk") and component.source:
        # Without a version of its own, the source has that of the package.
        return component.source, component.source_version or component.version
    if component.kind == "golang":
        return component.name, component.version.removeprefix("go")
    return component.name, component.version


def _uncovered(inventory: Inventory, covered: Sequence[Matter]) -> Mapping[str, int]:
    """Return the kinds of packages that no feed knows of, and how many there are."""
    known = {matter.kind for matter in covered}
    kinds = Counter(component.kind for component in inventory.components)
    wanted = scopes.SYSTEMS | scopes.LANGUAGES.keys()
    return {kind: count for kind, count in kinds.items() if kind in wanted and kind not in known}


def _demand(
    inventory: Inventory, missing: Mapping[str, int], feeds: Sequence[Feed], folder: Path, gate: Gate
) -> None:
    """Raise NoDatabaseError unless there is a feed for what must have one."""
    wanted = {kind: n for kind, n in missing.items() if gate.complete or kind in scopes.SYSTEMS}
    if not wanted:
        return
    told = ", ".join(plural(count, f"{kind} package") for kind, count in sorted(wanted.items()))
    distro = inventory.distro
    system = distro.name or f"{distro.id} {distro.version or distro.codename}".strip()
    raise NoDatabaseError(
        f"no database in {folder} knows of {told} of {system or 'an image without /etc/os-release'}",
        detail=f"what is there: {', '.join(feed.name for feed in feeds)}",
        hint=directory.HINT,
    )


def _demand_packages(inventory: Inventory, gate: Gate) -> None:
    """Raise NoDatabaseError for an image of a system of which no package is known, as its package database is
    gone or cannot be read: that nothing is known of it is not all well."""
    if gate.complete and not inventory.complete:
        told, hint = f"not all packages of {inventory.name} are known", "do without --complete"
    elif any(component.kind in scopes.SYSTEMS for component in inventory.components):
        return
    elif inventory.distro.id or not inventory.complete:
        system = inventory.distro.name or inventory.distro.id or "the system"
        told = f"no package of {system} in {inventory.name} is known, so none can be looked up"
        hint = "keep the package database in the image, or scan the bill of materials of its build"
    else:
        return
    raise NoDatabaseError(told, detail="\n".join(inventory.unknown), hint=hint)


def demand_fresh(feeds: Sequence[Feed], gate: Gate, now: float) -> None:
    """Raise NoDatabaseError for a feed that is older than the gate allows, or whose date cannot be true."""
    if gate.max_age is None:
        return
    for feed in feeds:
        age = (now - feed.updated) / DAY
        if age > gate.max_age or age < -1 or not feed.updated:
            told = f"{age:.0f} days old" if age >= -1 and feed.updated else "of no time that can be true"
            raise NoDatabaseError(
                f"the database {feed.name} is {told} ({feed.dated}), and may be {gate.max_age:g} days old",
                hint="download it anew and import it: buildstep scan --import FILE",
            )


DAY = 86400.0


def _keys(matter: Matter) -> list[Key]:
    names = [matter.name]
    if matter.kind == "pkgsrc":
        names += [pkgsrc.globs(matter.name), pkgsrc.ANY]
    return [(matter.scope, name) for name in names]


def _advisories(
    known: Sequence[Known], asked: Sequence[Matter]
) -> Iterator[tuple[Matter, list[list[tuple[str, Advisory]]]]]:
    """Yield for each matter what each feed that knows of its scope says of it, in the order of belief."""
    keys = {key for matter in asked for key in _keys(matter)}
    told = [(one, one.find([key for key in keys if key[0] in one.scopes])) for one in known]
    for matter in asked:
        yield (
            matter,
            [
                [(one.feed.name, row) for key in _keys(matter) for row in rows.get(key, ())]
                for one, rows in told
                if matter.scope in one.scopes
            ],
        )


@dataclass
class Looked:
    """What was found so far. strange: packages whose version has no place in its order."""

    found: list[Found] = field(default_factory=list)
    strange: set[str] = field(default_factory=set)

    def look(self, matter: Matter, told: Sequence[Sequence[tuple[str, Advisory]]]) -> None:
        """Match what feeds say of a matter. Of a system, the first feed decides what affects it, and the
        others only say how bad it is; of a language, all are asked."""
        deciding = told[:1] if matter.kind in ("deb", "apk") else told
        hits = [hit for rows in deciding for hit in self._hits(matter, rows)]
        others = [advisory for rows in told[len(deciding) :] for _, advisory in rows]
        for group in _same(hits):
            advisory = _joined([hit[1] for hit in group], matter)
            self.found.append(
                Found(
                    advisory=_rated(advisory, others),
                    matter=matter,
                    feeds=tuple(dict.fromkeys(hit[0] for hit in group)),
                )
            )

    def _hits(self, matter: Matter, rows: Iterable[tuple[str, Advisory]]) -> Iterator[tuple[str, Advisory]]:
        for feed, advisory in rows:
            try:
                if ranges.affects(advisory, matter.name, matter.version):
                    yield feed, advisory
            except ValueError as error:
                self.strange.add(f"{matter.name} {matter.version}")
                yield feed, replace(advisory, state="undetermined", note=str(error))


def _same(hits: Sequence[tuple[str, Advisory]]) -> list[list[tuple[str, Advisory]]]:
    """Return advisories by the vulnerability that they are of: those that share a name."""
    groups: list[tuple[set[str], list[tuple[str, Advisory]]]] = []
    for hit in hits:
        names, members = set(hit[1].names), [hit]
        for group in [group for group in groups if group[0] & names]:
            groups.remove(group)
            names |= group[0]
            members = group[1] + members
        groups.append((names, members))
    return [members for _, members in groups]


def _joined(advisories: Sequence[Advisory], matter: Matter) -> Advisory:
    """Return one advisory for all that are of one vulnerability."""
    names = set[str]().union(*(advisory.names for advisory in advisories))
    name = min(names, key=lambda text: (not text.startswith("CVE-"), text))
    worst = min(advisories, key=lambda advisory: _RANK[advisory.severity])
    state = min((advisory.state for advisory in advisories), key=_STATES.index)
    fixed = _repair(advisories, matter) if state == "fixed" else ""
    first = next((advisory for advisory in advisories if advisory.state == state), advisories[0])
    return replace(
        first,
        id=name,
        aliases=tuple(sorted(names - {name})),
        severity=worst.severity,
        severity_source=worst.severity_source,
        score=worst.score,
        state="open" if state == "fixed" and not fixed else state,
        fixed=fixed,
    )


_STATES = (
    "fixed", "open", "postponed", "minor", "end-of-life", "wont-fix", "undetermined", "unimportant",
)  # fmt: skip
"""Of several that feeds tell of one vulnerability, the first counts."""

_RANK = {level: rank for rank, level in enumerate((*LEVELS, "unknown"))}


def _repair(advisories: Sequence[Advisory], matter: Matter) -> str:
    """Return the first version after the one that is there which repairs it; empty for none."""
    found = [(advisory.fixed, advisory.order) for advisory in advisories if advisory.fixed]
    for advisory in advisories:
        if not advisory.fixed:
            for what, version in (event for events in advisory.ranges for event in events):
                if what == "fixed":
                    found.append((version, advisory.order))
    later: list[tuple[str, str]] = []
    for version, order in found:
        with contextlib.suppress(ValueError):
            if compare(order, version, matter.version) > 0:
                later.append((version, order))
    if not later:
        return ""
    by = functools.partial(compare, later[0][1])
    return min((version for version, _ in later), key=functools.cmp_to_key(by))


def _rated(advisory: Advisory, others: Iterable[Advisory]) -> Advisory:
    """Return an advisory with the severity that another feed tells, where it has none."""
    if advisory.severity != "unknown":
        return advisory
    for other in others:
        if other.severity != "unknown" and other.names & advisory.names:
            return replace(
                advisory, severity=other.severity, severity_source=other.severity_source, score=other.score
            )
    return advisory


def _order(found: Found) -> tuple[int, str, str, str]:
    return _RANK[found.advisory.severity], found.matter.name, found.id, found.matter.version
