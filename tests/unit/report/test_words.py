"""Numbers and outcomes in words."""

from __future__ import annotations

from buildstep.report.words import delta, safe_url, seconds_text
from buildstep.system.text import plural


def test_words() -> None:
    told = [seconds_text(value) for value in (0, 0.0013, 0.9999, 8.15, 59.97, 245, 3725)]
    assert told == ["0 s", "1 ms", "1.0 s", "8.2 s", "1 min 00 s", "4 min 05 s", "1 h 02 min"]
    assert (plural(1, "path"), plural(1200, "path")) == ("1 path", "1,200 paths")
    assert [delta(*pair) for pair in ((110, 100), (90, 100), (100, 100), (1, 0))] == [
        "+10.0 %",
        "\N{MINUS SIGN}10.0 %",
        "±0 %",
        "",
    ]


def test_only_links_to_the_web_are_links() -> None:
    assert safe_url("https://example.org/CVE-1") == "https://example.org/CVE-1"
    assert safe_url("HTTP://example.org") == "HTTP://example.org"
    assert (safe_url("javascript:alert(1)"), safe_url("data:text/html,x"), safe_url("")) == ("", "", "")
