"""Vulnerabilities that an image may have for a while: a TOML file of exceptions, each with its reason and
end.

    format = 1

[[exception]] id = "CVE-2023-45853"            # or another name of it; a URL for an entry of pkgsrc without a
number package = "zlib"                 # the source package, or one of its packages; a glob until =
2027-01-31               # the last day on which it counts reason = "minizip is not built" justification =
"vulnerable_code_not_present"    # optional, of OpenVEX: it is not affected, says the VEX
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault, SpecError, UsageError
from buildstep.trust.vulnerabilities.model import Found, Result

FORMAT = 1
_LARGEST = 4 << 20
_MEMBERS = frozenset({"id", "package", "until", "reason", "justification"})

JUSTIFICATIONS: Final = frozenset(
    {
        "component_not_present",
        "vulnerable_code_not_present",
        "vulnerable_code_not_in_execute_path",
        "vulnerable_code_cannot_be_controlled_by_adversary",
        "inline_mitigations_already_exist",
    }
)
"""Why a product is not affected, in the words of OpenVEX 0.2.0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Excepted:
    """An exception. until: its last day."""

    id: str
    package: str
    until: date
    reason: str
    justification: str = ""

    def fits(self, found: Found) -> bool:
        """Tell whether it is about a finding, whenever that is."""
        names = (found.matter.name, *found.matter.packages)
        return self.id in found.advisory.names and any(
            fnmatch.fnmatchcase(name, self.package) for name in names
        )

    def __str__(self) -> str:
        return f"{self.id} in {self.package}"


def applied(result: Result, exceptions: Sequence[Excepted], *, now: float) -> Result:
    """Return a result in which what is excepted no longer counts, and exceptions that have ended or that
    nothing needs are told."""
    today = datetime.fromtimestamp(now, UTC).date()
    used: set[Excepted] = set()
    rows = []
    for found in result.found:
        fitting = [row for row in exceptions if row.fits(found)]
        used.update(fitting)
        row = max(fitting, key=lambda one: one.until, default=None)
        if row is None or found.ruling:
            rows.append(found)
        elif row.until < today:
            rows.append(replace(found, expired=row.until, reason=row.reason))
        else:
            rows.append(
                replace(
                    found,
                    ruling="exception",
                    reason=row.reason,
                    justification=row.justification,
                    until=row.until,
                )
            )
    unused = tuple(str(row) for row in exceptions if row not in used)
    return replace(result, found=tuple(rows), unused=unused)


def load(path: Path) -> tuple[Excepted, ...]:
    """Read a file of exceptions. Raises SpecError with every fault, UsageError for no file."""
    import tomllib

    try:
        with path.open("rb") as stream:
            value = tomllib.loads(stream.read(_LARGEST).decode())
    except OSError as error:
        raise UsageError(f"cannot read the exceptions {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SpecError(str(path), [Fault(where="$", message=f"not TOML: {error}")]) from error
    faults: list[Fault] = []
    if value.get("format") != FORMAT:
        faults.append(Fault(where="$.format", message=f"must be {FORMAT}"))
    faults += [
        Fault(where=f"$.{name}", message="is not known", hint="write [[exception]]")
        for name in sorted(value.keys() - {"format", "exception"})
    ]
    rows = value.get("exception", [])
    if not isinstance(rows, list):
        faults.append(Fault(where="$.exception", message="write [[exception]]"))
        rows = []
    found = [_row(f"$.exception[{number}]", row, faults) for number, row in enumerate(rows)]
    if faults:
        raise SpecError(str(path), faults)
    return tuple(row for row in found if row is not None)


def _row(where: str, row: Any, faults: list[Fault]) -> Excepted | None:
    if not isinstance(row, Mapping):
        faults.append(Fault(where=where, message="is no table", hint="write [[exception]]"))
        return None
    before = len(faults)
    faults += [
        Fault(where=f"{where}.{name}", message="is not known", hint=f"one of {', '.join(sorted(_MEMBERS))}")
        for name in sorted(row.keys() - _MEMBERS)
    ]
    for name in ("id", "package", "reason"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            faults.append(Fault(where=f"{where}.{name}", message="is missing, or no text"))
    until = row.get("until")
    if isinstance(until, datetime):
        until = until.date()
    if not isinstance(until, date):
        faults.append(
            Fault(where=f"{where}.until", message="must be a date, such as 2027-06-30, without quotes")
        )
    justification = row.get("justification", "")
    if justification != "" and (not isinstance(justification, str) or justification not in JUSTIFICATIONS):
        hint = f"one of {', '.join(sorted(JUSTIFICATIONS))}"
        faults.append(Fault(where=f"{where}.justification", message="is none of OpenVEX", hint=hint))
    if len(faults) > before or not isinstance(until, date):
        return None
    return Excepted(
        id=row["id"], package=row["package"], until=until, reason=row["reason"], justification=justification
    )
