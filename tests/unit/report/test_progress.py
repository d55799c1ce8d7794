"""How far jobs are: lines at a pace in a log, bars on a terminal, nothing where nobody looks."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable

import pytest

from buildstep.events import Bus, Gauge, Reading, StepStarted
from buildstep.report import progress
from buildstep.report.ci_log import CIView
from buildstep.report.console import PlainView, TerminalView, view_for
from buildstep.report.progress import Pace, words

pytest.importorskip("rich")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def aged(gauge: Gauge, seconds: float) -> Gauge:
    gauge.began = time.monotonic() - seconds
    return gauge


def until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not done():
        assert time.monotonic() < limit, "it did not come"
        time.sleep(0.005)


def test_a_line_has_what_is_known() -> None:
    gauge = aged(Gauge("pull app:1", 300 << 20), 10)
    gauge.advance(100 << 20)
    assert words(gauge) == "pull app:1: 100.0 MiB of 300.0 MiB, 33%, 10.0 MiB/s, 20 s left"
    unknown = aged(Gauge("make bookworm"), 2)
    unknown.advance(4 << 20)
    assert words(unknown) == "make bookworm: 4.0 MiB, 2.0 MiB/s"
    apt = aged(
        Gauge("install packages", 100, unit="percent", read=lambda: Reading(25, text="Unpacking x\x1b")), 30
    )
    assert words(apt) == "install packages: 25%, 1 min 30 s left, Unpacking x?"


def test_many_small_files_are_most_of_the_work() -> None:
    gauge = aged(Gauge("put", 1 << 20, files=1000), 10)
    gauge.advance(1 << 20, 500)
    assert words(gauge) == "put: 500 of 1,000 files, 1.0 MiB of 1.0 MiB, 51%, 102.4 KiB/s, 10 s left"
    assert words(aged(Gauge("put", 0, files=10), 1)) == "put: 0 of 10 files, 0 B, 0%, 0 B/s"


def test_what_cannot_be_read_just_now_is_as_it_was() -> None:
    answers = iter([Reading(5)])

    def read() -> Reading:
        try:
            return next(answers)
        except StopIteration:
            raise OSError from None

    gauge = Gauge("push", 10, read=read)
    assert gauge.reading() == gauge.reading() == Reading(5)


def test_long_jobs_are_told_at_a_pace_and_short_ones_are_not() -> None:
    said: list[str] = []
    pace = Pace(said.append, every=0.02)
    short, long = Gauge("short", 10), aged(Gauge("long", 10), 60)
    pace.begin(short)
    pace.end(short)
    pace.begin(long)
    until(lambda: len(said) >= 3)
    pace.end(long)
    pace.close()
    assert all(row.startswith("long: ") for row in said)
    assert said[-1] == "long: 0 B in 1 min 0 s"


def test_a_plain_log_and_a_ci_have_lines() -> None:
    for view_of in (
        lambda stream: PlainView(stream, pace=0.02),
        lambda stream: CIView("gitlab", stream, pace=0.02),
    ):
        stream = io.StringIO()
        bus = Bus(view_of(stream))
        with bus.job("pull app:1", 1 << 20) as gauge:
            until(lambda: "    pull app:1: 0 B of 1.0 MiB, 0%, 0 B/s\n" in stream.getvalue())  # noqa: B023
            gauge.advance(1 << 20)
        assert "pull app:1: 1.0 MiB in 0 s\n" in stream.getvalue()


@pytest.mark.parametrize(("width", "shown"), [(110, "━"), (80, "MiB/s"), (50, "1.0/2.0 MiB"), (30, "50%")])
def test_a_terminal_shows_what_there_is_room_for(
    width: int, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    bus = Bus(TerminalView())
    bus.emit(StepStarted(step="import", index=1, total=9, title="import the base image"))
    with bus.job("pull [b]app:1", 2 << 20) as gauge:
        gauge.advance(1 << 19)
        time.sleep(0.15)
        gauge.advance(1 << 19)
        until(lambda: shown in stream.getvalue())
    assert "import the base image" in stream.getvalue()
    assert "\x1b[3" not in stream.getvalue(), "a colour"
    assert width < 50 or "pull [b]app:1" in stream.getvalue(), "markup was obeyed"
    bus.emit(StepStarted(step="clone", index=2, total=9, title="clone"))
    bus.note("stop", level="error")
    assert stream.getvalue().endswith("error: stop\x1b[0m\n")


def test_a_command_without_steps_has_bars_while_it_has_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    bus = Bus(TerminalView())
    with bus.job("push one", 10), bus.job("push two", 10):
        until(lambda: "push two" in stream.getvalue())
    bus.note("done")
    assert "done" in stream.getvalue().rpartition("\n")[0].rpartition("\n")[2]


def test_quiet_and_a_terminal_that_cannot_change_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    bus = Bus(view_for(sys.stderr, verbose=0, quiet=True))
    with bus.job("push", 10), progress.progress("put", 1, 1, quiet=True):
        pass
    assert stream.getvalue() == ""
    monkeypatch.setenv("TERM", "dumb")
    bus = Bus(view_for(sys.stderr, verbose=0, quiet=False))
    with bus.job("push", 10), progress.progress("put", 1, 1):
        bus.note("word")
    assert stream.getvalue().endswith("word\n")
    assert "\x1b" not in stream.getvalue()
