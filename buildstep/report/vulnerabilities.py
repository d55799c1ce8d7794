"""Known vulnerabilities of what is in an image, as rows of a record, and as SARIF wherever they are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal
from urllib.parse import quote

from buildstep.report.words import safe_url
from buildstep.system.text import printable

_LEVELS: Final[Mapping[str, Literal["error", "warning", "note"]]] = {
    "critical": "error", "high": "error", "medium": "warning", "unknown": "warning",
}  # fmt: skip
_SCORES: Final = {"critical": 9.5, "high": 8.0, "medium": 5.5, "low": 2.0, "negligible": 0.1}
"""What code scanning sorts by (`security-severity`) where there is no score: the middle of each rating."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vulnerability:
    """A known vulnerability of a package.

    kind: of the package; fixed: the version that repairs it; score: of CVSS; counts: whether the gate fails
    for it; ruling: why it does not though it is there, with the reason and its last day; expired: the last
    day of an exception that no longer counts.
    """

    id: str
    package: str = ""
    kind: str = ""
    installed: str = ""
    fixed: str = ""
    severity: str = "unknown"
    score: str = ""
    state: str = ""
    summary: str = ""
    url: str = ""
    ruling: str = ""
    reason: str = ""
    until: str = ""
    expired: str = ""
    counts: bool = False

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Vulnerability:
        """Return what `row` has written; what is missing or odd is left out."""
        words = {name: str(row[name]) for name in _NAMES if isinstance(row.get(name), str | int | float)}
        return cls(**{"id": "", **words}, counts=row.get("counts") is True)

    def row(self) -> dict[str, Any]:
        """Return it as JSON, without what is empty."""
        return {name: value for name, value in asdict(self).items() if value or name == "counts"}

    @property
    def level(self) -> Literal["error", "warning", "note"]:
        return _LEVELS.get(self.severity, "note")

    @property
    def rank(self) -> float | None:
        """0 to 10, None where nobody says how bad it is."""
        try:
            score = float(self.score)
        except ValueError:
            score = -1.0
        return score if 0 < score <= 10 else _SCORES.get(self.severity)

    @property
    def line(self) -> str:
        """It in a line, for a person."""
        repaired = f", repaired in {self.fixed}" if self.fixed else f", {self.state}" if self.state else ""
        ended = f" (its exception ended on {self.expired})" if self.expired else ""
        what = f"{self.package} {self.installed}".rstrip()
        return printable(f"{self.id} ({self.severity}) in {what}{repaired}{ended}")

    @property
    def verdict(self) -> str:
        """Whether it counts, or why not, for a person."""
        if self.ruling:
            end = f" until {self.until}" if self.until else ""
            return printable(f"{self.ruling}{end}: {self.reason}".rstrip(": "))
        return "counts" if self.counts else "does not count"


_NAMES: Final = tuple(field.name for field in fields(Vulnerability) if field.name != "counts")


def shown(rows: Iterable[Vulnerability], *, everything: bool) -> list[Vulnerability]:
    """Return what is worth telling: what counts, and what would without a ruling; or everything."""
    return [row for row in rows if everything or row.counts or row.ruling]


# -- SARIF 2.1.0 ------------------------------------------------------------------------------------------


def sarif_rules(rows: Sequence[Vulnerability]) -> dict[str, dict[str, Any]]:
    """Return a rule for each vulnerability, by its id."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.id not in found:
            found[row.id] = _rule(row)
    return found


def _rule(row: Vulnerability) -> dict[str, Any]:
    properties: dict[str, Any] = {"tags": ["security", "vulnerability"]}
    if (rank := row.rank) is not None:
        properties["security-severity"] = f"{rank:.1f}"
    rule: dict[str, Any] = {
        "id": row.id,
        "shortDescription": {"text": f"{row.id} in {row.package}"},
        "fullDescription": {"text": row.summary or row.id},
        "defaultConfiguration": {"level": row.level},
        "properties": properties,
    }
    if url := safe_url(row.url):
        rule["helpUri"] = quote(url, safe=":/?#[]@!$&'()*+,;=%~")
    return rule


def sarif_result(row: Vulnerability, name: str, index: int) -> dict[str, Any]:
    """Return the result of a vulnerability. name: of the image; index: of its rule."""
    full = f"{name}/{row.kind}/{row.package}@{row.installed}"
    result: dict[str, Any] = {
        "ruleId": row.id,
        "ruleIndex": index,
        "level": row.level,
        "message": {"text": row.line},
        "locations": [
            {"logicalLocations": [{"name": row.package, "kind": "package", "fullyQualifiedName": full}]}
        ],
        "partialFingerprints": {"buildstep/v1": f"{row.id}/{row.kind}/{row.package}"},
    }
    if row.ruling:
        result["suppressions"] = [{"kind": "external", "justification": row.reason}]
    return result
