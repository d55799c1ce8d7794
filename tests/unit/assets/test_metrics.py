"""The Prometheus text format, read back by its own rules."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from buildstep.assets import metrics
from buildstep.assets.metrics import Metric, text_of
from buildstep.errors import UsageError

_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
_PAIR = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read the format as its description has it: HELP and TYPE before the samples of their name."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    current = ""
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split(" ", 3)[2]
            continue
        if line.startswith("# TYPE "):
            assert line.split(" ")[2:] == [current, "gauge"]
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        assert match[1] == current
        pairs = tuple(
            (name, re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], value))
            for name, value in _PAIR.findall(match[2] or "")
        )
        assert (match[1], pairs) not in found
        found[match[1], pairs] = float(match[3])
    return found


def test_a_sample_is_read_back_as_it_was() -> None:
    odd = 'a"b\\c\nd, e="f"}'
    metric = Metric(name="buildstep_test", about="Odd\nlines \\ and all.")
    metric.add(1, service="web", version=odd)
    metric.add(1764455699.25, service="api", version="1")
    metric.add(float("inf"), service="none", version="")
    assert parse(text_of([metric])) == {
        ("buildstep_test", (("service", "web"), ("version", odd))): 1,
        ("buildstep_test", (("service", "api"), ("version", "1"))): 1764455699.25,
        ("buildstep_test", (("service", "none"), ("version", ""))): float("inf"),
    }


def test_a_large_number_keeps_its_digits() -> None:
    metric = Metric(name="bytes", about="Bytes.")
    metric.add(123456789012345)
    assert text_of([metric]).splitlines()[-1] == "bytes 123456789012345"


def test_a_metric_without_samples_says_nothing() -> None:
    assert text_of([Metric(name="nothing", about="Nothing.")]) == ""


def test_the_same_labels_twice_would_lose_the_whole_file() -> None:
    metric = Metric(name="twice", about="Twice.")
    metric.add(1, service="web")
    with pytest.raises(AssertionError):
        metric.add(2, service="web")


def test_the_file_is_one_that_the_collector_takes(tmp_path: Path) -> None:
    metric = Metric(name="up", about="Up.")
    metric.add(1)
    path = tmp_path / "buildstep.prom"
    metrics.write(path, [metric])
    assert parse(path.read_text()) == {("up", ()): 1}
    assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044
    assert [entry.name for entry in tmp_path.iterdir()] == ["buildstep.prom"]
    with pytest.raises(UsageError, match=r"end in \.prom"):
        metrics.write(tmp_path / "buildstep.txt", [metric])
