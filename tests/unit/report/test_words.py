"""Numbers and outcomes in words."""

from __future__ import annotations

from dataclasses import replace

from buildstep.report.record import Layer
from buildstep.report.words import brings, delta, safe_url, seconds_text, title
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


def test_layers() -> None:
    layer = Layer(
        files=3, bytes=2048, removed=1, packages=("a 1", "b 2"), comment="base image x 1", created_by="COPY"
    )
    assert brings(layer) == "3 files of 2.0 KiB, 2 packages, 1 removed"
    assert brings(replace(layer, files=0, removed=0, packages=())) == "no files"
    assert brings(Layer(packages=("a 1",))) == "", "nobody counted"
    assert title(layer) == "base image x 1"
    assert title(replace(layer, base=True)) == "base image x 1 (COPY)"
    assert title(replace(layer, comment="")) == "COPY"
    assert title(Layer()) == "layer"
    long = replace(layer, base=True, created_by="RUN\n  " + "x" * 500)
    assert title(long) == f"base image x 1 (RUN {'x' * 116}...)"
