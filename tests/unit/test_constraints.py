"""The lowest versions that CI tests with are the ones that pyproject.toml declares."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_the_constraints_are_the_lowest_declared_versions() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(row for name in extras if name != "dev" for row in extras[name])]
    pinned = re.findall(r"^([\w-]+==\S+)$", (TOP / "tests/constraints-lowest.txt").read_text(), re.MULTILINE)
    assert pinned == sorted(row.replace(">=", "==") for row in declared if not row.startswith("buildstep["))
