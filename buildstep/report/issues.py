"""Issues of a build: what went wrong or deserves a look, in one form for every format that lists them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from buildstep.report.proofs import proofs
from buildstep.report.record import BuildRecord
from buildstep.report.vulnerabilities import Vulnerability
from buildstep.report.words import safe_url

Level = Literal["error", "warning", "note"]

_CVE = re.compile(r"\b(?:CVE-\d{4}-\d{4,}|DSA-\d+(?:-\d+)?|GHSA(?:-[0-9a-z]{4}){3})\b", re.IGNORECASE)

_SEVERITIES: dict[str, tuple[Level, float]] = {
    "critical": ("error", 9.5),
    "high": ("error", 8.0),
    "important": ("error", 8.0),
    "medium": ("warning", 5.5),
    "moderate": ("warning", 5.5),
    "low": ("note", 2.0),
    "negligible": ("note", 0.5),
}
"""The severity that an audit tool names: our level, and a score in the range where GitHub sorts it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Issue:
    """One issue. rule: the kind of issue; score: 0 to 10 if the audit ranks it; vulnerability: that it is.

    subject: the package, path or step it is about. rule and subject identify the issue in the next build, so
    neither may hold a number that changes.
    """

    rule: str
    title: str
    level: Level
    text: str
    category: str
    subject: str = ""
    url: str = ""
    score: float | None = None
    vulnerability: Vulnerability | None = None

    @property
    def fingerprint(self) -> str:
        """A digest by which a CI finds the same issue in the next build."""
        parts = "\n".join((self.rule, self.subject, "" if self.subject else self.text))
        return hashlib.sha256(parts.encode(errors="replace")).hexdigest()[:32]


def issues(record: BuildRecord) -> Iterator[Issue]:
    """Yield the issues of a record, the most severe kind first."""
    failed = [step for step in record.steps if step.state == "failed"]
    for step in failed:
        text = step.reason or "the step failed"
        if record.error is not None and record.error.message and record.error.message != text:
            text = f"{text}: {record.error.message}"
        yield Issue(
            rule="step-failed",
            title="A step of the build failed",
            level="error",
            text=f"{step.name}: {text}",
            category="build",
            subject=step.name,
        )
    if record.error is not None and not failed:
        yield Issue(
            rule="build-failed",
            title="The build failed",
            level="error",
            text=record.error.message or "the build failed",
            category="build",
        )
    for finding in record.findings:
        known = _CVE.search(f"{finding.problem} {finding.url}")
        ranked = _SEVERITIES.get(finding.severity.lower())
        yield Issue(
            rule=known[0].upper() if known else "vulnerable-package",
            title=f"Vulnerability {known[0].upper()}" if known else "A package with a known vulnerability",
            level=ranked[0] if ranked else "warning",
            text=f"{finding.package} {finding.version}: {finding.problem}",
            category="audit",
            subject=finding.package,
            url=safe_url(finding.url),
            score=ranked[1] if ranked else None,
        )
    yield from _known(record)
    for note in record.problems:
        level: Level = "error" if note.level == "error" else "warning"
        yield Issue(
            rule=f"build-{note.level}",
            title=f"{'An error' if level == 'error' else 'A warning'} of the build",
            level=level,
            text=f"{note.step}: {note.text}" if note.step else note.text,
            category="note",
        )
    for line in record.entropy:
        yield Issue(
            rule="not-reproducible",
            title="A file that differs from build to build",
            level="warning" if record.reproducible else "note",
            text=line,
            category="reproducibility",
            subject=line.partition(":")[0],
        )


def _known(record: BuildRecord) -> Iterator[Issue]:
    """Yield what the gate for known vulnerabilities found and tells."""
    for row in proofs(record).told:
        yield Issue(
            rule=row.id,
            title=f"{row.id} in {row.package}",
            level=row.level,
            text=row.line,
            category="audit",
            subject=row.package,
            url=safe_url(row.url),
            score=row.rank,
            vulnerability=row,
        )
