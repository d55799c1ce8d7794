"""SARIF 2.1.0: findings for code scanning on GitHub, GitLab, Azure and for editors; a run per build."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import IO, Any
from urllib.parse import quote

from buildstep import __version__
from buildstep.report.interface import Report
from buildstep.report.issues import Issue, issues
from buildstep.report.proofs import proofs
from buildstep.report.record import BuildRecord
from buildstep.report.vulnerabilities import sarif_result, sarif_rules

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def render(records: Sequence[BuildRecord], out: IO[bytes]) -> None:
    """Write a SARIF log."""
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(record) for record in records]}
    out.write(json.dumps(log, indent=2).encode() + b"\n")


def _run(record: BuildRecord) -> dict[str, Any]:
    found = list(issues(record))
    rules: dict[str, Issue] = {}
    for issue in found:
        rules.setdefault(issue.rule, issue)
    order = {rule: index for index, rule in enumerate(rules)}
    ended = record.started + timedelta(seconds=record.seconds)
    return {
        "tool": {
            "driver": {
                "name": "buildstep",
                "version": __version__,
                "semanticVersion": __version__,
                "rules": [_rule(issue) for issue in rules.values()],
            }
        },
        # GitHub separates the runs of images by the category, which is what precedes the last slash.
        "automationDetails": {"id": f"buildstep/{record.name}/{record.build_id}"},
        "invocations": [
            {
                "executionSuccessful": record.ok,
                "exitCode": record.exit_code,
                "startTimeUtc": record.started.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
                "endTimeUtc": ended.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            }
        ],
        "results": [_result(record, issue, order[issue.rule]) for issue in found],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "name": record.name,
            "version": record.version,
            "uuid": record.uuid,
            "image": record.base,
            "treeDigest": record.tree_digest,
            **_proofs(record),
        },
    }


def _proofs(record: BuildRecord) -> dict[str, Any]:
    """Return what proves the image, for whoever reads the properties."""
    proved = proofs(record)
    if not proved:
        return {}
    files = {file.name: f"sha256:{file.sha256}" for file in proved.files}
    return {"proofs": files, "signedBy": list(proved.keys), "builder": proved.builder,
            "databases": list(proved.databases)}  # fmt: skip


def _rule(issue: Issue) -> dict[str, Any]:
    if issue.vulnerability is not None:
        return sarif_rules([issue.vulnerability])[issue.rule]
    rule: dict[str, Any] = {
        "id": issue.rule,
        "shortDescription": {"text": issue.title},
        "defaultConfiguration": {"level": issue.level},
        "properties": {"tags": [issue.category]},
    }
    if issue.url:
        rule["helpUri"] = quote(issue.url, safe=":/?#[]@!$&'()*+,;=%~")
    if issue.category == "audit":
        rule["properties"]["tags"].append("security")
        if issue.score is not None:
            rule["properties"]["security-severity"] = f"{issue.score:.1f}"
    return rule


def _result(record: BuildRecord, issue: Issue, index: int) -> dict[str, Any]:
    place: dict[str, Any] = {
        # Code scanning shows no result without a file, and the manifest asked for what was found.
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(record.source)},
            "region": {"startLine": 1},
        }
    }
    if issue.vulnerability is not None:
        result = sarif_result(issue.vulnerability, record.name, index)
        result["locations"][0] |= place
        return result
    location = dict(place)
    if issue.subject:
        kind = {"audit": "package", "build": "step"}.get(issue.category, "file")
        location["logicalLocations"] = [{"fullyQualifiedName": issue.subject, "kind": kind}]
    return {
        "ruleId": issue.rule,
        "ruleIndex": index,
        "level": issue.level,
        "message": {"text": issue.text},
        "locations": [location],
        "partialFingerprints": {"buildstep/v1": issue.fingerprint},
    }


def _uri(path: str) -> str:
    return f"file://{quote(path)}" if path.startswith("/") else quote(path)


REPORT = Report(".sarif", render)
