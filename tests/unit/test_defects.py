"""The page of the predecessor's defects names every number that a test carries, and only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import numbered_tests

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/explanation/defects.md"

_MARK = re.compile(r"\bD(\d{1,2})\b")
_MARK_IN_NAME = re.compile(r"def (test(?:_d\d{1,2})+_\w+)")
ROW = re.compile(r"^- `(tests/[\w/]+\.py)`: ((?:`\w+`(?:,\s+)?)+)$", re.MULTILINE)


def sections() -> dict[int, dict[str, list[str]]]:
    """Return the tests that the page names for each number, by file."""
    parts = re.split(r"^### D(\d+): .+$", PAGE.read_text(), flags=re.MULTILINE)
    return {
        int(number): {file: re.findall(r"`(\w+)`", names) for file, names in ROW.findall(text)}
        for number, text in zip(parts[1::2], parts[2::2], strict=True)
    }


SECTIONS = sections()


def marks(path: Path) -> list[tuple[int, str]]:
    """Return the numbers a file carries, each with the name of its test, or nothing for one in a comment."""
    text = path.read_text()
    named = [
        (int(number), name)
        for name in _MARK_IN_NAME.findall(text)
        for number in re.findall(r"(?<=_d)\d+", name.partition("_d")[1] + name.partition("_d")[2])
    ]
    return [*named, *((int(number), "") for number in _MARK.findall(text))]


_OTHERS = {Path(__file__), *(path for name in numbered_tests.SETS for path in numbered_tests.files(name))}
MARKED = [path for path in sorted(TESTS.rglob("*.py")) if path not in _OTHERS and marks(path)]


def test_marks_are_found() -> None:
    assert len(MARKED) > 10
    assert set(SECTIONS) == set(range(1, 45))


@pytest.mark.parametrize("path", MARKED, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_every_mark_has_its_line(path: Path) -> None:
    file = path.relative_to(TESTS.parent).as_posix()
    missing = []
    for number, name in marks(path):
        tests = SECTIONS.get(number, {}).get(file, [])
        if name not in tests if name else not tests:
            missing.append(f"D{number}: {file}: {name}")
    assert missing == []


@pytest.mark.parametrize("number", sorted(SECTIONS))
def test_every_test_that_is_named_exists(number: int) -> None:
    assert SECTIONS[number], "no test is named"
    for file, names in SECTIONS[number].items():
        path = TESTS.parent / file
        assert path.is_file(), file
        defined = re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)
        assert sorted(set(names) - set(defined)) == [], file
