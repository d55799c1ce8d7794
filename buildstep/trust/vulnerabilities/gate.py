"""The gate: what is looked up, what may be there all the same, and what is too much."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from buildstep.errors import BuildstepError, VulnerableError
from buildstep.report.vulnerabilities import Vulnerability
from buildstep.system.digest import sha256_file
from buildstep.system.text import plural
from buildstep.trust.inventory.model import Inventory
from buildstep.trust.vulnerabilities import directory, exceptions, match, vex
from buildstep.trust.vulnerabilities.database import SUFFIX, Database
from buildstep.trust.vulnerabilities.exceptions import Excepted
from buildstep.trust.vulnerabilities.match import DAY
from buildstep.trust.vulnerabilities.model import Found, Gate, Result
from buildstep.trust.vulnerabilities.vex import Said

_AGE = re.compile(r"([0-9]{1,5})([dhm]?)")
_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a scan goes by. folder: of the databases; excepted, said: what may be there, and who denies
    what."""

    folder: Path
    gate: Gate = field(default_factory=Gate)
    excepted: tuple[Excepted, ...] = ()
    said: tuple[Said, ...] = ()


def asked(
    folder: Path, gate: Gate, *, exception_files: Sequence[Path] = (), vex_files: Sequence[Path] = ()
) -> Asked:
    """Read what a scan goes by, all of it before anything is looked at. Raises SpecError and UsageError."""
    return Asked(
        folder=folder,
        gate=gate,
        excepted=tuple(row for path in exception_files for row in exceptions.load(path)),
        said=tuple(row for path in vex_files for row in vex.load(path)),
    )


def scan(inventory: Inventory, given: Asked, *, now: float) -> Result:
    """Return what is known of an image, with what is excepted or denied. Raises NoDatabaseError."""
    result = match.scan(inventory, given.folder, given.gate, now=now)
    return exceptions.applied(vex.applied(result, given.said), given.excepted, now=now)


def fingerprint(
    folder: Path, gate: Gate, exception_files: Sequence[Path], vex_files: Sequence[Path], *, now: float
) -> list[Any]:
    """Return what an answer depends on besides the image: which databases there are, and whether they are too
    old by now; the exceptions, and which of them have ended. Raises nothing: who asks again finds out."""
    found: list[Any] = []
    with contextlib.suppress(BuildstepError, OSError):
        for path in directory.files(folder):
            info = path.stat()
            row = [path.name, info.st_size, info.st_mtime_ns]
            if gate.max_age is not None and path.suffix == SUFFIX:
                with Database(path) as database:
                    row.append(int((now - database.feed.updated) / DAY > gate.max_age))
            elif gate.max_age is not None:
                row.append(int(now / DAY))  # how old a download is, only who reads all of it knows
            found.append(row)
    today = datetime.fromtimestamp(now, UTC).date()
    with contextlib.suppress(BuildstepError, OSError):
        for path in exception_files:
            rows = exceptions.load(path)
            found.append([sha256_file(path), [str(row) for row in rows if row.until < today]])
    with contextlib.suppress(OSError):
        found += [sha256_file(path) for path in vex_files]
    return found


def demand(result: Result, gate: Gate) -> None:
    """Raise VulnerableError if an image has what the gate does not let pass."""
    counted = result.counted(gate)
    if not counted:
        return
    lines = [told(found, gate).line for found in counted[:_SHOWN]]
    if len(counted) > _SHOWN:
        lines.append(f"and {plural(len(counted) - _SHOWN, 'other')}")
    noun = "vulnerability fails" if len(counted) == 1 else "vulnerabilities fail"
    raise VulnerableError(
        f"{result.name}: {len(counted):,} known {noun} the gate (severity {gate.fail} and worse"
        f"{', unknown ones too' if gate.unknown else ''}{', with a repair' if gate.fixed_only else ''})",
        detail="\n".join(f"  {text}" for text in lines),
        hint="update what has a repair; an exception with its reason and end is for what has none",
    )


def told(found: Found, gate: Gate) -> Vulnerability:
    """Return a finding as records and reports have it."""
    advisory, matter = found.advisory, found.matter
    return Vulnerability(
        id=found.id,
        package=matter.name,
        kind=matter.kind,
        installed=matter.version,
        fixed=advisory.fixed,
        severity=advisory.severity,
        score=advisory.score,
        state=advisory.state,
        summary=advisory.summary,
        url=advisory.url,
        ruling=found.ruling,
        reason=found.reason,
        until=str(found.until or ""),
        expired=str(found.expired or ""),
        counts=gate.counts(found),
    )


def days(text: str) -> float:
    """Return the days of an age such as 7d, 12h, 30m, or a plain number of days. Raises ValueError."""
    match_ = _AGE.fullmatch(text)
    if match_ is None:
        raise ValueError(f"{text!r} is no age: days such as 7 or 7d, hours such as 12h")
    seconds = {"": DAY, "d": DAY, "h": 3600.0, "m": 60.0}[match_[2]]
    return int(match_[1]) * seconds / DAY
