"""The native JSON of Jenkins's Warnings plugin: `recordIssues tool: issues(pattern: '...')`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any

from buildstep.report.interface import Report
from buildstep.report.issues import Issue, issues
from buildstep.report.record import BuildRecord

_SEVERITIES = {"error": "ERROR", "warning": "NORMAL", "note": "LOW"}


def render(records: Sequence[BuildRecord], out: IO[bytes]) -> None:
    """Write a report with the issues of all builds."""
    rows = [_row(record, issue) for record in records for issue in issues(record) if not _excepted(issue)]
    report = {
        "_class": "io.jenkins.plugins.analysis.core.restapi.ReportApi",
        "issues": rows,
        "size": len(rows),
    }
    out.write(json.dumps(report, indent=2).encode() + b"\n")


def _excepted(issue: Issue) -> bool:
    """Whether somebody has ruled that it does not count: the plugin has no word for that."""
    return issue.vulnerability is not None and bool(issue.vulnerability.ruling)


def _row(record: BuildRecord, issue: Issue) -> dict[str, Any]:
    severity = _SEVERITIES[issue.level]
    if issue.category == "audit" and issue.score is not None and issue.score < 9:
        # ERROR is the plugin's word for what stops a build.
        severity = "HIGH" if issue.level == "error" else severity
    row = {
        "fileName": record.source,
        "lineStart": 1,
        "severity": severity,
        "category": issue.category,
        "type": issue.rule,
        "message": issue.text,
        "moduleName": record.title,
        "fingerprint": issue.fingerprint,
    }
    if issue.category == "audit":
        row["packageName"] = issue.subject
    if issue.url:
        row["description"] = issue.url
    return row


REPORT = Report(".json", render)
