"""What was found, as the predicate of a statement: in-toto vulns v0.2 (in-toto/attestation,
spec/predicates)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from buildstep import __version__
from buildstep.trust.vulnerabilities.model import Found, Gate, Result


def predicate(result: Result, gate: Gate, *, at: float | None = None) -> Mapping[str, Any]:
    """Return the predicate. at: its time, for the beginning and the end, if that of the scan is not to be."""
    time = _time(result.started if at is None else at)
    digest = hashlib.sha256("".join(feed.digest for feed in result.feeds).encode()).hexdigest()
    if len(result.feeds) == 1:
        digest = result.feeds[0].digest
    return {
        "scanner": {
            "uri": f"pkg:pypi/buildstep@{__version__}",
            "version": __version__,
            "db": {
                "uri": f"buildstep:{'+'.join(feed.name for feed in result.feeds)}",
                "version": f"sha256:{digest}",
                "lastUpdate": _time(result.updated),
            },
            "result": [_row(found, gate) for found in result.found],
            "buildstep_databases": [
                {
                    "name": feed.name,
                    "sha256": feed.digest,
                    "lastUpdate": _time(feed.updated),
                    "dated": feed.dated,
                }
                for feed in result.feeds
            ],
            "buildstep_uncovered": dict(result.uncovered),
        },
        "metadata": {"scanStartedOn": time, "scanFinishedOn": time},
    }


def _row(found: Found, gate: Gate) -> dict[str, Any]:
    advisory = found.advisory
    severity = [{"method": advisory.severity_source or "none", "score": advisory.severity}]
    if advisory.score:
        severity.append({"method": "cvss_score", "score": advisory.score})
    notes = {
        "package": found.matter.name,
        "installed": found.matter.version,
        "fixed": advisory.fixed,
        "state": advisory.state,
        "counted": "yes" if gate.counts(found) else "no",
        "ruling": found.ruling,
        "reason": found.reason,
        "until": str(found.until or ""),
    }
    return {
        "id": found.id,
        "severity": severity,
        "annotations": [{key: value} for key, value in notes.items() if value],
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
