"""What a record says of the proofs of its image: files beside it, who signed them, what the gate found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from buildstep.report.record import BuildRecord
from buildstep.report.vulnerabilities import Vulnerability, shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """A file beside an image."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Proofs:
    """What proves an image. keys: fingerprints of those who signed; builder: as provenance names it; scanned:
    whether vulnerabilities were looked up; found: all of them, those that count first; told: those to list;
    databases: names."""

    files: tuple[Proof, ...] = ()
    keys: tuple[str, ...] = ()
    builder: str = ""
    scanned: bool = False
    found: tuple[Vulnerability, ...] = ()
    told: tuple[Vulnerability, ...] = ()
    databases: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files or self.scanned)

    @property
    def counted(self) -> tuple[Vulnerability, ...]:
        return tuple(row for row in self.found if row.counts)


def proofs(record: BuildRecord) -> Proofs:
    """Return what a record says; what of it is odd is left out, as a record may be anybody's."""
    trust, known = record.trust, record.trust.get("vulnerabilities")
    known = known if isinstance(known, Mapping) else None
    found = sorted((Vulnerability.of(row) for row in _rows(known, "found")), key=_weight)
    files = (
        Proof(name=row["name"], size=row["size"], sha256=str(row.get("sha256", "")))
        for row in _rows(trust, "files")
        if isinstance(row.get("name"), str) and isinstance(row.get("size"), int)
    )
    return Proofs(
        files=tuple(files),
        keys=tuple(str(key) for key in _list(trust, "keys")),
        builder=str(trust.get("builder") or ""),
        scanned=known is not None,
        found=tuple(found),
        told=tuple(shown(found, everything=known is not None and not known.get("fail"))),
        databases=tuple(str(row.get("name", "")) for row in _rows(known, "databases")),
    )


def _weight(row: Vulnerability) -> int:
    return 0 if row.counts else 1 if row.ruling else 2


def _list(value: Mapping[str, Any] | None, name: str) -> list[Any]:
    found = (value or {}).get(name)
    return list(found) if isinstance(found, list | tuple) else []


def _rows(value: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    return [row for row in _list(value, name) if isinstance(row, Mapping)]
