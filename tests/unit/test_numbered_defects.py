"""Each defect of daybook and of pai-build has a test, which the page of them names."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from scripts import numbered_tests
from tests.unit.test_defects import ROW, TESTS


class Page(NamedTuple):
    """A page of defects. letter: before their numbers; last: the last of them."""

    name: str
    letter: str
    last: int


PAGES = {"daybook": Page("daybook-defects.md", "B", 17), "components": Page("pai-build-defects.md", "P", 20)}


def sections(of: str) -> dict[int, str]:
    page = PAGES[of]
    text = (TESTS.parent / "docs/explanation" / page.name).read_text()
    parts = re.split(rf"^### {page.letter}(\d+): .+$", text, flags=re.MULTILINE)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


SECTIONS = {of: sections(of) for of in PAGES}


@pytest.mark.parametrize("of", PAGES)
def test_every_number_is_there(of: str) -> None:
    assert sorted(SECTIONS[of]) == list(range(1, PAGES[of].last + 1))
    assert {number for number, _, _ in numbered_tests.numbered(of)} <= set(SECTIONS[of])


@pytest.mark.parametrize(
    ("of", "number"), [(of, number) for of, page in PAGES.items() for number in range(1, page.last + 1)]
)
def test_every_number_has_a_test_and_its_own_list(of: str, number: int) -> None:
    assert f"<!-- table: {of} {number} -->" in SECTIONS[of][number]
    assert ROW.findall(SECTIONS[of][number]), f"no test carries the number {number}"
