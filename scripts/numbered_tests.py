"""The tests that carry a number of a predecessor's defects, for the pages that tell of these."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

TOP = Path(__file__).parents[1]

SETS: Mapping[str, tuple[str, ...]] = {
    "daybook": (
        "**/assets/test_*.py",
        "**/test_daybook*.py",
        "**/test_assets*.py",
        "**/test_consul*.py",
        "**/test_map*.py",
    ),
    "components": ("**/components/test_*.py", "**/test_components*.py"),
}
"""Whose defects `test_d07_...` is about in which files below tests/; in all others it is of buildimage."""

_NUMBERED = re.compile(r"^ *def (test((?:_d\d+)+)_\w+)", re.MULTILINE)


def files(name: str, top: Path = TOP) -> list[Path]:
    """Return the files of one of SETS, sorted."""
    return sorted({path for pattern in SETS[name] for path in (top / "tests").glob(pattern)})


def numbered(name: str, top: Path = TOP) -> Iterator[tuple[int, str, str]]:
    """Yield number, file and name of each test of a set that carries a number."""
    for path in files(name, top):
        for test, numbers in _NUMBERED.findall(path.read_text(encoding="utf-8")):
            for number in re.findall(r"\d+", numbers):
                yield int(number), path.relative_to(top).as_posix(), test


def rows(name: str, number: int, top: Path = TOP) -> str:
    """Return the tests of a number as a list for a page: a row a file."""
    found: dict[str, list[str]] = {}
    for other, file, test in numbered(name, top):
        if other == number:
            found.setdefault(file, []).append(f"`{test}`")
    return "\n".join(
        textwrap.fill(f"- `{file}`: {', '.join(names)}", 140, subsequent_indent="  ", break_on_hyphens=False)
        for file, names in found.items()
    )
