"""Limits on what may differ between two trees, for a CI that is to stop where one is exceeded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from buildstep.errors import GateError
from buildstep.files.compare import Comparison
from buildstep.files.compare_packages import PackageChange
from buildstep.files.compare_privileges import NEEDED, Kind, Shift
from buildstep.system.text import plural, shown_path, size_text

_GROWTH = re.compile(
    r"(?P<percent>[0-9]{1,6}(?:\.[0-9]{1,6})?)%|(?P<count>[0-9]{1,15})(?P<unit>[kmgt]?)(?:i?b)?"
)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Growth:
    """By how much a tree may grow: bytes, or per cent of what it was."""

    text: str
    size: int = 0
    percent: float | None = None

    @classmethod
    def parse(cls, text: str) -> Growth:
        """Return the limit of a text such as 10M, 500KiB or 2.5%. Raises ValueError."""
        match = _GROWTH.fullmatch(text.strip().lower())
        if match is None:
            raise ValueError(
                f"{text!r} is no growth: a number of bytes such as 500K or 10M, or per cent such as 5%"
            )
        if match["percent"]:
            return cls(text.strip(), percent=float(match["percent"]))
        return cls(text.strip(), size=int(match["count"]) * _UNITS[match["unit"]])

    def allows(self, old: int, new: int) -> bool:
        """Say whether a tree of `old` bytes may have `new` ones."""
        if self.percent is not None:
            return (new - old) * 100 <= old * self.percent
        return new - old <= self.size


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What is asked for. growth: of the sum of all files' sizes."""

    growth: Growth | None = None
    setuid: bool = False
    capabilities: bool = False
    packages: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one limit: its option, whether it is kept, and why or by how much."""

    name: str
    ok: bool
    text: str


def judge(
    gate: Gate, found: Comparison, shifts: Sequence[Shift], packages: Sequence[PackageChange] | None
) -> list[Verdict]:
    """Return a verdict for each limit that is asked for. What cannot be known is not kept.

    packages: None where those of one tree are not known.
    """
    verdicts = []
    if gate.growth is not None:
        grown = found.new.size - found.old.size
        text = f"{size_text(abs(grown))} {'more' if grown >= 0 else 'less'}, {gate.growth.text} allowed"
        verdicts.append(Verdict("max-growth", gate.growth.allows(found.old.size, found.new.size), text))
    if gate.setuid:
        verdicts.append(_gained("no-new-setuid", found, shifts, ("setuid", "setgid")))
    if gate.capabilities:
        verdicts.append(_gained("no-new-capabilities", found, shifts, ("capability",)))
    if gate.packages and packages is None:
        verdicts.append(Verdict("no-removed-packages", False, "the packages of one of the two are not known"))
    elif gate.packages:
        names = [row.name for row in packages or () if row.change == "removed"]
        verdicts.append(Verdict("no-removed-packages", not names, _listed(names, "package") + " removed"))
    return verdicts


def _gained(name: str, found: Comparison, shifts: Sequence[Shift], kinds: tuple[Kind, ...]) -> Verdict:
    if lacking := sorted({NEEDED[kind] for kind in kinds} & found.skipped):
        return Verdict(name, False, f"one of the lists does not tell {' and '.join(lacking)}")
    rows = [it for it in shifts if it.change == "gained" and it.privilege.kind in kinds]
    paths = [f"/{shown_path(it.path)} ({it.privilege.detail})" for it in rows]
    return Verdict(name, not rows, _listed(paths, "new one"))


def _listed(names: Sequence[str], noun: str) -> str:
    if not names:
        return f"no {noun}"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{plural(len(names), noun)}: {', '.join(names[:_SHOWN])}{more}"


def enforce(verdicts: Sequence[Verdict]) -> None:
    """Raise GateError, with every limit that is exceeded."""
    failed = list(_failed(verdicts))
    if failed:
        raise GateError(
            f"{plural(len(failed), 'limit')} exceeded",
            detail="\n".join(failed),
            hint="remove the cause, or allow it: raise or leave out the option",
        )


def _failed(verdicts: Sequence[Verdict]) -> Iterator[str]:
    return (f"  --{it.name}: {it.text}" for it in verdicts if not it.ok)
