"""The tests that carry a number of daybook's defects, for the page that tells of these."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parents[1]

FILES = (
    "**/assets/test_*.py",
    "**/test_daybook*.py",
    "**/test_assets*.py",
    "**/test_consul*.py",
    "**/test_map*.py",
)
"""Tests of assets, below tests/. There `test_d07_...` is of a defect of daybook, elsewhere of buildimage."""

_NUMBERED = re.compile(r"^ *def (test((?:_d\d+)+)_\w+)", re.MULTILINE)


def files(top: Path = TOP) -> list[Path]:
    """Return the files of tests of assets, sorted."""
    return sorted({path for pattern in FILES for path in (top / "tests").glob(pattern)})


def numbered(top: Path = TOP) -> Iterator[tuple[int, str, str]]:
    """Yield number, file and name of each test that carries a number."""
    for path in files(top):
        for name, numbers in _NUMBERED.findall(path.read_text(encoding="utf-8")):
            for number in re.findall(r"\d+", numbers):
                yield int(number), path.relative_to(top).as_posix(), name


def rows(number: int, top: Path = TOP) -> str:
    """Return the tests of a number as a list for a page: a row a file."""
    found: dict[str, list[str]] = {}
    for other, file, name in numbered(top):
        if other == number:
            found.setdefault(file, []).append(f"`{name}`")
    return "\n".join(
        textwrap.fill(f"- `{file}`: {', '.join(names)}", 140, subsequent_indent="  ", break_on_hyphens=False)
        for file, names in found.items()
    )
