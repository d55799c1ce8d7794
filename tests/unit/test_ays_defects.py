"""The page of AYS's defects has every number that a test carries, and only tests that exist."""

from __future__ import annotations

import re

import pytest

from tests.unit.test_defects import ROW, TESTS

PAGE = TESTS.parent / "docs/explanation/ays-defects.md"
LATER = "Services: not there yet."

_DEF = re.compile(r"^ *def (test_\w+)", re.MULTILINE)


def sections() -> dict[int, str]:
    parts = re.split(r"^### A(\d+): .+$", PAGE.read_text(), flags=re.MULTILINE)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


SECTIONS = sections()


def named(number: int) -> dict[str, list[str]]:
    """The tests that the page names for a number, by file."""
    return {file: re.findall(r"`(\w+)`", names) for file, names in ROW.findall(SECTIONS[number])}


def test_every_number_is_there() -> None:
    assert list(SECTIONS) == list(range(1, 23))


def test_every_test_with_a_number_is_on_the_page() -> None:
    missing = []
    for path in sorted(TESTS.rglob("test_*.py")):
        file = path.relative_to(TESTS.parent).as_posix()
        for name in re.findall(r"^ *def (test_ays_d\d+_\w+)", path.read_text(), re.MULTILINE):
            number = int(name.removeprefix("test_ays_d").partition("_")[0])
            if name not in named(number).get(file, []):
                missing.append(f"A{number}: {file}: {name}")
    assert missing == []


@pytest.mark.parametrize("number", range(1, 23))
def test_every_test_that_is_named_exists(number: int) -> None:
    tests = named(number)
    assert tests or LATER in SECTIONS[number], "no test is named, and nothing is said of it"
    for file, names in tests.items():
        defined = _DEF.findall((TESTS.parent / file).read_text())
        assert sorted(set(names) - set(defined)) == [], file
