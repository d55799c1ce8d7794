"""The page of what is promised names a test for each promise, only tests that exist, and every wall."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from buildstep.build.doctor.walls import WALLS

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/explanation/isolation.md"

_ROW = re.compile(r"^- `(tests/[\w/]+\.py)`: ((?:`\w+`(?:,\s+)?)+)$", re.MULTILINE)


def sections() -> dict[str, str]:
    """Return the page's sections that promise something, each by its heading."""
    parts = re.split(r"^(?:##|###) (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    about_walls = list(found).index("What a package script cannot do")
    return {
        name: text for name, text in list(found.items())[about_walls + 1 :] if name != "What is not promised"
    }


SECTIONS = sections()


def test_the_attackers_are_there() -> None:
    for attacker in (
        "base image",
        "proto directory",
        "another user",
        "another build",
        "damaged disk",
        "network",
    ):
        assert any(attacker in name for name in SECTIONS), attacker


@pytest.mark.parametrize("name", SECTIONS)
def test_every_promise_has_tests_that_exist(name: str) -> None:
    rows = _ROW.findall(SECTIONS[name])
    assert rows, "no test is named"
    assert SECTIONS[name].count("- `tests/") == len(rows), "a line of tests is not in the form of the others"
    for file, names in rows:
        path = TESTS.parent / file
        assert path.is_file(), file
        defined = re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)
        assert sorted(set(re.findall(r"`(\w+)`", names)) - set(defined)) == [], file


@pytest.mark.parametrize("wall", [wall.name for wall in WALLS])
def test_every_wall_is_promised_somewhere(wall: str) -> None:
    assert any(f"*{wall}*" in text for text in SECTIONS.values())


def test_what_is_not_promised_is_said() -> None:
    text = PAGE.read_text().partition("## What is not promised")[2]
    for word in ("kernel", "Side channels", "owns the pool"):
        assert word in text
