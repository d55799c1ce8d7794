"""The HTML page as text: closed to the network, nothing unescaped, the whole log inside, memory flat."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html.parser
import io
import json
import re
import tracemalloc
from pathlib import Path

import pytest

from buildstep import report
from buildstep.report import log_pack
from tests.unit import reportdata


class Page(html.parser.HTMLParser):
    """Elements of a page, and the text of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None], str]] = []
        self._inside: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts.append((*self._inside, data))
            self._inside = None

    def scripts(self, kind: str | None) -> list[str]:
        return [text for tag, attrs, text in self.texts if tag == "script" and attrs.get("type") == kind]


def rendered(*records: Path) -> str:
    out = io.BytesIO()
    report.render("html", records, None, out)
    return out.getvalue().decode()


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    """A record every text of which tries to break out of the page."""
    value = reportdata.failed(name=reportdata.NASTY, version=reportdata.NASTY, build_id=reportdata.NASTY)
    value["error"] = dict.fromkeys(("message", "detail", "hint"), reportdata.NASTY)
    good = reportdata.record()
    for key in ("packages", "cleaned", "layers", "artifacts", "audit"):
        value[key] = good[key]
    value["packages"][0] |= {
        "name": reportdata.NASTY,
        "version": reportdata.NASTY,
        "source": reportdata.NASTY,
    }
    value["audit"]["findings"][0] |= {"problem": reportdata.NASTY, "url": "javascript:alert(1)"}
    value["cleaned"][0]["names"] = [reportdata.NASTY]
    value["steps"][1]["reason"] = reportdata.NASTY
    value["artifacts"][0]["path"] = reportdata.NASTY
    value["layers"][0]["comment"] = reportdata.NASTY
    value["files_added"] = [["/" + reportdata.NASTY, 5]]
    value["entropy"] = [reportdata.NASTY]
    value["notes"] = [{"level": "error", "text": reportdata.NASTY, "step": reportdata.NASTY}]
    value["inputs"]["manifest"]["description"] = reportdata.NASTY
    odd = dict.fromkeys(reportdata.vulnerability("CVE-1"), reportdata.NASTY)
    trust = reportdata.trust({**odd, "counts": True, "url": "javascript:alert(1)"})
    trust["files"][0]["name"] = trust["keys"][0] = trust["builder"] = reportdata.NASTY
    trust["vulnerabilities"]["databases"][0]["name"] = reportdata.NASTY
    value["trust"] = trust
    value["tools"] = {reportdata.NASTY: reportdata.NASTY}
    reportdata.write_events(tmp_path / "nasty.events.jsonl", 60)
    return reportdata.write(tmp_path / "nasty.buildrecord.json", value)


def test_nothing_breaks_out(nasty: Path) -> None:
    text = rendered(nasty)
    page = Page(text)
    assert "<img" not in text
    assert "<script>alert" not in text
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert not [attrs for _, attrs in page.tags if (attrs.get("href") or "").startswith("javascript:")]
    # Ours, and data: nothing else is a script.
    kinds = [attrs.get("type") for tag, attrs in page.tags if tag == "script"]
    assert kinds == ["application/json", "application/gzip", "application/json", None]
    assert json.loads(page.scripts("application/json")[0])["files"] == [["/" + reportdata.NASTY, 5]]


def test_the_policy_allows_our_script_and_style_only(nasty: Path) -> None:
    page = Page(rendered(nasty))
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    [script] = page.scripts(None)
    [style] = [text for tag, _, text in page.texts if tag == "style"]
    for name, text in (("script-src", script), ("style-src-elem", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy


def test_nothing_is_fetched(nasty: Path) -> None:
    for tag, attrs in Page(rendered(nasty)).tags:
        for name in ("src", "srcset", "poster", "action", "data"):
            assert name not in attrs, (tag, attrs)
        if tag == "link":
            assert (attrs["href"] or "").startswith("data:")


def test_the_whole_log_is_inside(tmp_path: Path) -> None:
    record = reportdata.write(tmp_path / "hello.buildrecord.json", reportdata.record())
    log = reportdata.write_events(tmp_path / "hello.events.jsonl", 10_000)
    page = Page(rendered(record))
    index = json.loads(page.scripts("application/json")[1])
    rows = [
        line
        for chunk in page.scripts("application/gzip")
        for line in gzip.decompress(base64.b64decode(chunk)).decode().split("\n")
    ]
    assert len(rows) == index["rows"] == len(log.read_bytes().splitlines())
    assert sum(index["chunks"]) == index["rows"]
    assert any(row.endswith(reportdata.NASTY) for row in rows)
    # Ten thousand and some events in chunks of 4,096.
    assert index["chunks"] == [4096, 4096, index["rows"] - 8192]
    assert all(rows[row].split("\t")[1] in "we" for row in index["problems"])
    first = index["steps"].index("packages")
    assert rows[index["first"][first]].split("\t")[2] == str(first)


def test_odd_events_are_shown_and_not_fatal(tmp_path: Path) -> None:
    path = tmp_path / "odd.events.jsonl"
    odd: list[object] = [
        {"event": "build.started"},
        {"event": "step.started", "step": "a\tb"},
        {"event": "step.finished", "step": 3, "state": "new", "seconds": None},
        {"event": "cleaned"},
        {"event": "artifact", "size": "x"},
        {"event": "invented", "time": "noon", "colour": "red"},
        {"event": "note", "level": "fatal", "text": "one\ntwo"},
        {"event": "output", "tool": "a\tb\n", "text": "\ud800 odd", "time": 5},
        ["no", "event"],
        7,
    ]
    path.write_text("\n".join(json.dumps(row) for row in odd) + '\n{"event": "outp')
    out = io.BytesIO()
    index = log_pack.pack(path, out)
    chunk = re.search(rb'class="log-chunk">(.*?)</script>', out.getvalue())
    assert chunk is not None
    rows = gzip.decompress(base64.b64decode(chunk[1])).decode().split("\n")
    assert len(rows) == index.rows == len(odd) + 2
    assert all(len(row.split("\t", 4)) == 5 for row in rows)
    assert any("colour" in row for row in rows)
    assert "cut off or damaged" in rows[-1]


def test_a_record_without_log_has_a_page(tmp_path: Path) -> None:
    text = rendered(reportdata.write(tmp_path / "r.json", reportdata.record()))
    assert "there is no event log beside the record" in text
    assert "log-chunk" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_memory_is_flat(tmp_path: Path) -> None:
    """Ten times the log, the same memory."""
    peaks = []
    for lines in (5_000, 50_000):
        folder = tmp_path / str(lines)
        folder.mkdir()
        record = reportdata.write(folder / "hello.buildrecord.json", reportdata.record())
        reportdata.write_events(folder / "hello.events.jsonl", lines)
        with (folder / "page.html").open("wb") as out:
            report.render("badge", [record], None, io.BytesIO())
            tracemalloc.start()
            report.render("html", [record], None, out)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2 + 500_000, peaks


def test_all_layers_are_told_with_what_they_bring(tmp_path: Path) -> None:
    text = rendered(reportdata.write(tmp_path / "r.json", reportdata.record()))
    card = text[text.index('id="layers"') :].partition("</section>")[0]
    assert card.count("<li>") == len(reportdata.record()["layers"])
    assert 'title="apt 2.6.1, dpkg 1.21.22">4,112 files of 94.4 MiB, 2 packages<' in card
    command = "buildstep image import mmdebstrap:bookworm"
    assert f'<code class="by" title="{command}">{command}</code>' in card
    assert card.count('<span class="chip">base</span>') == 1


def test_package_changes_are_told(tmp_path: Path) -> None:
    records = reportdata.trend(tmp_path, 3)
    text = rendered(*records)
    assert "2 changes since the build before" in text
    assert "libnginx-mod-http-echo" in text


def test_pages_repeat(tmp_path: Path) -> None:
    record = reportdata.write(tmp_path / "hello.buildrecord.json", reportdata.record())
    reportdata.write_events(tmp_path / "hello.events.jsonl", 100)
    assert rendered(record) == rendered(record)


def test_checks_of_the_image_are_on_the_page(tmp_path: Path) -> None:
    text = rendered(reportdata.write(tmp_path / "hello.buildrecord.json", reportdata.record()))
    assert "1 of 2 passed" in text
    assert "/srv/a belongs to uid 7" in text


def test_proofs_are_on_the_page(tmp_path: Path) -> None:
    trust = reportdata.trust(
        reportdata.vulnerability("CVE-2026-7", severity="low", counts=False),
        reportdata.vulnerability("CVE-2026-6"),
    )
    text = rendered(reportdata.write(tmp_path / "hello.buildrecord.json", reportdata.record(trust=trust)))
    for word in (
        "hello-1.4.2.spdx.json",
        "5" * 64,
        "SHA256:Zm9vYmFy",
        "urn:buildstep:builder",
        "2 in all, 1 counted",
    ):
        assert word in text
    assert text.index(">CVE-2026-6<") < text.index(">CVE-2026-7<")
    assert 'href="https://security-tracker.debian.org/tracker/CVE-2026-6"' in text
    plain = rendered(reportdata.write(tmp_path / "hello.buildrecord.json", reportdata.record()))
    assert 'id="proofs"' not in plain
