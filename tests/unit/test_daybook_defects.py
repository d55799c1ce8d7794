"""Lists of numbered tests, and defects of daybook that are not of its code."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from scripts import numbered_tests
from tests.unit.test_defects import TESTS


def test_a_test_of_several_numbers_is_under_each(tmp_path: Path) -> None:
    path = tmp_path / "tests/unit/assets/test_x.py"
    path.parent.mkdir(parents=True)
    path.write_text("def test_d05_d07_two() -> None: ...\ndef test_none() -> None: ...\n")
    assert (
        numbered_tests.rows("daybook", 5, tmp_path) == "- `tests/unit/assets/test_x.py`: `test_d05_d07_two`"
    )
    assert numbered_tests.rows("daybook", 7, tmp_path) == numbered_tests.rows("daybook", 5, tmp_path)
    assert numbered_tests.rows("daybook", 6, tmp_path) == ""


@pytest.mark.parametrize("package", ["boto3", "cryptography", "py-consul", "zstandard"])
def test_d17_every_library_has_a_lowest_version_that_is_tested(package: str) -> None:
    """What assets need beyond the core is declared, and a job of CI runs with the oldest that is allowed."""
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    declared = {
        name: lowest
        for rows in project["optional-dependencies"].values()
        for name, mark, lowest in (row.partition(">=") for row in rows)
        if mark
    }
    pinned = dict(
        line.split("==") for line in (TESTS / "constraints-lowest.txt").read_text().split() if "==" in line
    )
    assert pinned[package].startswith(declared[package])
