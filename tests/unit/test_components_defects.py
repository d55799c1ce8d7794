"""Defects of pai-build that are not of its code."""

from __future__ import annotations

import re

import pytest

from tests.unit.test_defects import TESTS


@pytest.mark.parametrize("part", ["graph", "dockerfile", "push", "discover", "plan", "run", "stage", "hooks"])
def test_d19_each_part_has_tests_of_its_own(part: str) -> None:
    text = (TESTS / f"unit/components/test_{part}.py").read_text()
    assert len(re.findall(r"^def test_", text, re.MULTILINE)) >= 5
