"""The HTML page in a real browser: fast, silent, offline, usable by hand and on a telephone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep import report
from tests.integration.chromium import Browser, browser
from tests.unit import reportdata

__all__ = ["browser"]  # a fixture

EVENTS = 50_000

HITS = "document.getElementById('log-count').textContent"
ROWS = "[...document.querySelectorAll('#log-rows .row')]"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of 50,000 events, with eleven before it."""
    folder = tmp_path_factory.mktemp("good")
    records = reportdata.trend(folder)
    last = records[-1]
    rows = [reportdata.vulnerability(f"CVE-2026-{number}", counts=number < 3) for number in range(40)]
    value = json.loads(last.read_bytes())
    reportdata.write(last, {**value, "trust": reportdata.trust(*rows)})
    reportdata.write_events(last.with_name(last.name.replace(".buildrecord.json", ".events.jsonl")), EVENTS)
    return render(records, folder / "report.html")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failed")
    record = reportdata.write(folder / "hello.buildrecord.json", reportdata.failed())
    reportdata.write_events(folder / "hello.events.jsonl", 9_000, reportdata.failed())
    return render([record], folder / "report.html")


def render(records: list[Path], path: Path) -> Path:
    with path.open("wb") as out:
        report.render("html", records, None, out)
    return path


@pytest.fixture(autouse=True)
def silent(browser: Browser) -> Iterator[None]:
    """Whatever a test does: no console error, and nothing asked of any network."""
    browser.problems.clear()
    browser.requests.clear()
    browser.size(1600, 1000)
    browser.dark(False)
    yield
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_opens_in_time(browser: Browser, page: Path) -> None:
    seconds = min(browser.open(page) for _ in range(3))
    assert seconds < 2, f"{EVENTS} events took {seconds:.2f} s"
    assert "50,0" in browser.ask(HITS)
    # Only what is in sight is in the document.
    assert 10 < browser.ask(f"{ROWS}.length") < 60


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1600])
def test_reads_at_any_width(
    browser: Browser, page: Path, failed: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    browser.size(width, 1000)
    browser.dark(dark)
    for path in (page, failed):
        browser.open(path)
        assert browser.ask("document.documentElement.scrollWidth") <= width
        # Nothing but what scrolls by design sticks out of its card.
        wide = browser.ask(
            "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
            " && !e.closest('.scroll, #log-view, pre, svg')).map(e => e.outerHTML.slice(0, 80))"
        )
        assert wide == []
        shot = tmp_path / f"{width}.png"
        browser.screenshot(shot, whole=True)
        assert shot.stat().st_size > 20_000
    background = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(18, 20, 22)") is dark


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_told_from_its_background(browser: Browser, page: Path, dark: bool) -> None:
    """WCAG AA: 4.5 to 1 for every text that stands on a plain background."""
    browser.dark(dark)
    browser.open(page)
    assert browser.poor_contrast() == []


def test_everything_that_acts_has_a_name(browser: Browser, page: Path) -> None:
    browser.open(page)
    nameless = browser.ask(
        "[...document.querySelectorAll('button, input, select, a, [role=button], [tabindex]')]"
        ".filter(e => !(e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.outerHTML)"
    )
    assert nameless == []
    ids = browser.ask("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    jumps = browser.ask(
        "[...document.querySelectorAll('.jump a')].filter(a => !document.querySelector(a.hash)).length"
    )
    assert jumps == 0


def find(browser: Browser, text: str) -> None:
    browser.ask(
        f"(() => {{ const box = document.getElementById('log-find'); box.value = {text!r};"
        " box.dispatchEvent(new Event('input')); })()"
    )


def test_log_search_finds_and_shows_in_place(browser: Browser, page: Path) -> None:
    browser.open(page)
    find(browser, "ALERT(1)")
    browser.until(f"{HITS}.startsWith('1 of ') && !{HITS}.includes('searching')")
    # The tool's markup is text, its colour codes are gone.
    text = browser.until(f"{ROWS}[0].querySelector('.x')?.textContent")
    assert text.startswith("</script><script>alert('no')</script>")
    assert "\x1b" not in text
    assert "[31m" not in text
    assert browser.ask("document.querySelector('#log-rows mark').textContent") == "alert(1)"
    browser.ask(f"{ROWS}[0].click()")
    browser.until("!document.getElementById('log-detail').hidden")
    browser.ask("document.getElementById('log-context').click()")
    browser.until("document.querySelector('#log-rows .row.on')")
    assert browser.ask(f"{ROWS}.length") > 10
    assert " of " not in browser.ask(HITS)
    find(browser, "no such text")
    browser.until(f"{HITS}.startsWith('0 of ')")


def test_log_can_be_narrowed_by_step_and_kind(browser: Browser, page: Path) -> None:
    browser.open(page)

    def choose(name: str, value: str) -> None:
        browser.ask(
            f"(() => {{ const list = document.getElementById('log-{name}');"
            f" list.value = [...list.options].find(o => o.text === {value!r}).value;"
            " list.dispatchEvent(new Event('change')); })()"
        )

    choose("level", "warnings and errors")
    browser.until(f"{HITS}.startsWith('1 of ')")
    browser.until(f"{ROWS}[0].textContent.includes('clock of the mirror')")
    choose("level", "every line")
    choose("step", "emit")
    browser.until(f"/^62\\d of /.test({HITS})")


def test_log_scrolls_to_its_end_by_keys(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.ask("document.getElementById('log-view').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="End", code="End")
    browser.until(f"{ROWS}.at(-1)?.textContent.includes('built after')")


def test_a_failed_build_opens_at_its_error(browser: Browser, failed: Path) -> None:
    browser.open(failed)
    browser.until(f"{ROWS}.some(row => row.classList.contains('e'))")
    assert "nginx-lite" in browser.ask("document.querySelector('.failure').textContent")
    browser.ask("document.getElementById('log-problem').click()")
    browser.until("document.querySelector('#log-rows .row.on.w')")


def test_packages_filter_and_treemap_opens(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.ask(
        "(() => { const box = document.querySelector('.filter'); box.value = 'nginx light';"
        " box.dispatchEvent(new Event('input')); })()"
    )
    assert browser.ask("document.getElementById('packages-count').textContent") == "1 of 69"
    browser.until("document.querySelector('#treemap .folder')")
    before = browser.ask("document.getElementById('crumbs').textContent")
    browser.ask(
        "document.querySelector('#treemap .folder').dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    after = browser.ask("document.getElementById('crumbs').textContent")
    assert before.startswith("/ ")
    assert after.startswith("/ usr ")
    browser.ask("document.querySelector('#crumbs button').click()")
    assert browser.ask("document.getElementById('crumbs').textContent") == before


def test_digest_is_copied_and_theme_switches(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.ask("document.querySelector('.artifact .copy').click()")
    browser.until("document.querySelector('.copy.done')")
    browser.ask("document.getElementById('theme').click()")
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 22)"
    browser.ask("localStorage.clear()")


def test_a_log_taller_than_a_browser_allows(browser: Browser, tmp_path: Path) -> None:
    """Over 400,000 rows the scroll bar is a scale; its ends and every row between can be reached."""
    record = reportdata.write(tmp_path / "tall.buildrecord.json", reportdata.record())
    reportdata.write_events(tmp_path / "tall.events.jsonl", 450_000)
    assert browser.open(render([record], tmp_path / "tall.html")) < 4
    assert browser.ask("document.getElementById('log-space').clientHeight") < 10_000_000
    browser.ask("(() => { const v = document.getElementById('log-view'); v.scrollTop = v.scrollHeight; })()")
    browser.until(f"{ROWS}.at(-1)?.textContent.includes('built after')")
    browser.ask("document.getElementById('log-view').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="PageUp", code="PageUp")
    browser.until(f"!{ROWS}.at(-1).textContent.includes('built after')")
