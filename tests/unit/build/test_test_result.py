"""The results of checks, as a statement."""

from __future__ import annotations

import pytest

from buildstep.build import test_result as results
from buildstep.report.record import Check
from buildstep.trust.statements.statement import Subject
from tests.unit.build.test_provenance import spec

ABOUT = (Subject("a", {"sha256": "a" * 64}),)


@pytest.mark.parametrize(
    ("ends", "result"),
    [(["passed"], "PASSED"), (["passed", "warned"], "WARNED"), (["warned", "failed", "passed"], "FAILED")],
)
def test_the_worst_of_all_is_the_result(ends: list[str], result: str) -> None:
    checks = [Check(check=end, group="rule", result=end) for end in ends]  # type: ignore[arg-type]
    made = results.statement(spec(), [*checks, Check(check="s", result="skipped")], ABOUT)
    assert made is not None
    assert made.subjects == ABOUT
    assert made.predicate["result"] == result
    told = {end: made.predicate[f"{end}Tests"] for end in ("passed", "warned", "failed")}
    assert told == {end: [f"rule: {end}"] if end in ends else [] for end in told}


def test_nothing_is_stated_where_nothing_was_checked() -> None:
    assert results.statement(spec(), [Check(check="a", result="skipped")], ABOUT) is None


def test_what_was_asked_is_told_by_its_digest() -> None:
    check = [Check(check="a")]
    one = results.statement(spec(), check, ABOUT)
    other = results.statement(spec(checks={"rules": {"setuid": "off"}}), check, ABOUT)
    assert one is not None
    assert other is not None
    assert one.predicate["configuration"] != other.predicate["configuration"]
    assert [row["name"] for row in one.predicate["configuration"]] == ["build.checks"]
