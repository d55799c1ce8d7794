"""The page of a graph in a real browser: silent, offline, and what is chosen shows what belongs to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep import cli
from tests.integration.chromium import Browser, browser

__all__ = ["browser"]  # a fixture

NINE = Path(__file__).parents[2] / "fixtures" / "components"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "graph.html"
    assert cli.main(["components", "plan", "--root", str(NINE), "--graph", str(path)]) == 0
    return path


def names(browser: Browser, selector: str) -> set[str]:
    found = browser.ask(f"[...document.querySelectorAll('{selector}')].map((box) => box.dataset.name).join()")
    return set(found.split(",")) - {""}


def test_a_component_that_is_chosen_shows_what_it_needs_and_who_needs_it(
    browser: Browser, page: Path
) -> None:
    browser.problems.clear()
    browser.size(1300, 900)
    browser.open(page)
    click = "document.querySelector('[data-name=hadoop-run]').dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    browser.ask(click)
    assert names(browser, ".box.on") == {"hadoop-run"}
    assert names(browser, ".box.up") == {"hadoop-run", "base-image", "hadoop-ai"}
    assert names(browser, ".box.down") == {"hadoop-run", "end-to-end-test", "yarn-frameworklauncher"}
    assert browser.ask("document.getElementById('said').textContent") == "hadoop-run: needs 2, needed by 2"
    browser.ask(click)
    assert names(browser, ".box.on") == set()
    for dark in (False, True):
        browser.dark(dark)
        assert browser.poor_contrast() == []
    assert browser.problems == []


def test_no_text_leaves_its_box_and_a_telephone_scrolls_the_drawing_only(
    browser: Browser, page: Path
) -> None:
    browser.size(390, 800)
    browser.dark(False)
    browser.open(page)
    wide = """[...document.querySelectorAll('.box')].filter((box) => { const face = box.querySelector('.face').getBoundingClientRect();
      return [...box.querySelectorAll('text')].some((text) => text.getBoundingClientRect().right > face.right); }).length"""
    assert browser.ask(wide) == 0
    assert browser.ask("document.documentElement.scrollWidth") <= 390
