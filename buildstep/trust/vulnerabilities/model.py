"""What a database knows of a package, and what that means for an image: advisories and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from typing import Any, Final, Literal, get_args

Level = Literal["critical", "high", "medium", "low", "negligible", "unknown"]

LEVELS: Final = ("critical", "high", "medium", "low", "negligible")
"""Severities, worst first. `unknown` is none of these: nobody has said how bad it is."""

State = Literal[
    "fixed",  # a version that has the repair is there
    "open",  # no repair yet
    "minor",  # Debian: no advisory of its own; a repair may come with a point release
    "postponed",  # Debian: later, with another one
    "wont-fix",  # Debian: ignored
    "end-of-life",  # nobody looks after this package any more
    "undetermined",  # nobody knows yet whether it is affected
    "unimportant",  # Debian: no problem of security in the packages as they are built
]
COUNTING: Final = frozenset({"fixed", "open", "minor", "postponed"})
"""States that a gate counts. The others are told, and fail nothing (`end-of-life` only where asked)."""

Events = tuple[tuple[str, str], ...]
"""A range as OSV has it: (introduced | fixed | last_affected | limit, version), in the order of the list."""

EVENTS: Final = frozenset({"introduced", "fixed", "last_affected", "limit"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Advisory:
    """What a feed says of a package. It is affected in any of the ranges, at any of the versions, and where a
    pattern of pkgsrc fits; but never at a version that is said to be `unaffected`.

    id: such as CVE-2024-1234; aliases: other names of it; severity_source: who says so; order: of the
    versions (`orders.ORDERS`); fixed: the version that repairs it, where that is not one of the ranges;
    score: of CVSS.
    """

    id: str
    order: str = ""
    aliases: tuple[str, ...] = ()
    summary: str = ""
    url: str = ""
    severity: Level = "unknown"
    severity_source: str = ""
    score: str = ""
    state: State = "open"
    note: str = ""
    fixed: str = ""
    ranges: tuple[Events, ...] = ()
    versions: tuple[str, ...] = ()
    unaffected: tuple[str, ...] = ()
    pattern: str = ""

    def row(self) -> dict[str, Any]:
        """Return it as JSON, without what is empty."""
        return {name: value for name in _NAMES if (value := getattr(self, name))}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Advisory:
        """Return what `row` has written. Raises ValueError, TypeError, KeyError for anything else."""
        severity, state = row.get("severity", "unknown"), row.get("state", "open")
        if severity not in get_args(Level) or state not in get_args(State):
            raise ValueError(f"{severity!r} or {state!r} is not known")
        return cls(
            **{
                **row,
                "aliases": tuple(row.get("aliases", ())),
                "versions": tuple(row.get("versions", ())),
                "unaffected": tuple(row.get("unaffected", ())),
                "ranges": tuple(tuple((k, v) for k, v in events) for events in row.get("ranges", ())),
            }
        )

    @property
    def names(self) -> frozenset[str]:
        """All names of the vulnerability."""
        return frozenset((self.id, *self.aliases))


_NAMES = tuple(field.name for field in fields(Advisory))


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """Where advisories came from. name: `debian-tracker`, `osv-PyPI`...; file: its name; digest: SHA-256 of
    the file in hex; updated: seconds since 1970, when its content was current, and dated: how that is
    known."""

    name: str
    file: str
    digest: str
    updated: float
    dated: str
    rows: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Matter:
    """Something in an image that advisories may be about: a source package, or a package of a language.

    kind: of the components; scope: where to look (`scopes`); packages: names of the components, and refs
    theirs in the bill of materials.
    """

    kind: str
    scope: str
    name: str
    version: str
    packages: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()


Ruling = Literal["", "exception", "not_affected", "fixed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A vulnerability of something in an image.

    feeds: names of the feeds that tell of it. ruling: why it does not count though it is there: an exception,
    or a VEX statement that says so; reason: of that, in a sentence; until: when an exception ends; expired:
    of an exception that no longer counts, its last day. justification: in the words of OpenVEX.
    """

    advisory: Advisory
    matter: Matter
    feeds: tuple[str, ...] = ()
    ruling: Ruling = ""
    reason: str = ""
    justification: str = ""
    until: date | None = None
    expired: date | None = None

    @property
    def id(self) -> str:
        return self.advisory.id


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What an image must not have. fail: the least severity that counts, "" for none; fixed_only: only what a
    newer version repairs; unknown: whether a severity that nobody has told counts; eol: whether packages that
    nobody looks after count; max_age: days that a feed may be old, None for any; complete: whether packages
    of every kind need a feed, not just those of the system."""

    fail: str = "low"
    fixed_only: bool = False
    unknown: bool = True
    eol: bool = False
    max_age: float | None = None
    complete: bool = False

    def counts(self, found: Found) -> bool:
        """Tell whether a finding fails the gate."""
        advisory = found.advisory
        if not self.fail or found.ruling:
            return False
        if advisory.state not in COUNTING and not (self.eol and advisory.state == "end-of-life"):
            return False
        if self.fixed_only and advisory.state != "fixed":
            return False
        if advisory.severity == "unknown":
            return self.unknown
        return LEVELS.index(advisory.severity) <= LEVELS.index(self.fail)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a scan found. feeds: those that were asked; uncovered: kinds of packages that no feed here knows
    of, with how many there are; unused: exceptions that nothing needed; notes: sentences for a person."""

    name: str
    version: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    found: tuple[Found, ...] = ()
    feeds: tuple[Feed, ...] = ()
    matters: int = 0
    uncovered: Mapping[str, int] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    started: float = 0.0

    def counted(self, gate: Gate) -> Sequence[Found]:
        """Return what fails the gate."""
        return [found for found in self.found if gate.counts(found)]

    @property
    def updated(self) -> float:
        """When the oldest of the feeds was current; 0 without any."""
        return min((feed.updated for feed in self.feeds), default=0.0)
