"""What a CI log and a machine see of a build."""

from __future__ import annotations

import io
import json
import re
import threading
import time

import pytest

from buildstep.events import (
    ArtifactWritten,
    BuildFinished,
    BuildStarted,
    Cleaned,
    Event,
    Note,
    Output,
    StepFinished,
    StepStarted,
)
from buildstep.report.console import JsonView, PlainView, describe, view_for
from buildstep.system.text import SHOWN, size_text


def step(name: str = "packages") -> StepStarted:
    return StepStarted(step=name, index=4, total=9, title="install packages")


def lines(stream: io.StringIO) -> list[str]:
    return [re.sub(r"^\[ *[0-9.]+\] ", "", row) for row in stream.getvalue().splitlines()]


EVENTS: list[Event] = [
    BuildStarted(build_id="b1", name="hello", version="1", image="scratch", total_steps=9),
    step(),
    Output(step="packages", tool="apt-get", text="Unpacking"),
    Note(step="packages", level="debug", text="detail"),
    Note(step="packages", level="warning", text="careful"),
    Cleaned(cleaner="logs", paths=2, bytes=2048, names=("/var/log/a",)),
    StepFinished(step="packages", state="run", seconds=1.5, reason="apt"),
    ArtifactWritten(path="bits/hello.oci.tar", format="oci", size=3 << 20, sha256="0123456789abcdef" * 4),
    BuildFinished(ok=True, exit_code=0, seconds=2.0),
]


def test_a_plain_log_has_a_timed_line_per_event() -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    for event in EVENTS:
        view(event)
    assert lines(stream) == [
        "building hello 1 on scratch (build b1)",
        "4/9 install packages",
        "    warning: careful",
        "    logs: 2 paths, 2.0 KiB removed",
        "    packages done in 1.50 s: apt",
        "    bits/hello.oci.tar  3.0 MiB  sha256:0123456789abcdef",
        "built in 2.00 s",
    ]
    assert all(re.match(r"^\[ {4,}[0-9]\.[0-9]{3}\] ", row) for row in stream.getvalue().splitlines())


def test_more_is_told_on_demand() -> None:
    output, debug = EVENTS[2], EVENTS[3]
    assert describe(output, verbose=0) is None
    assert describe(output, verbose=1) == "    apt-get| Unpacking"
    assert describe(debug, verbose=1) is None
    assert describe(debug, verbose=2) == "    debug: detail"


def test_a_failure_says_its_exit_status() -> None:
    assert describe(BuildFinished(ok=False, exit_code=12, seconds=1), verbose=0) == (
        "FAILED (exit status 12) in 1.00 s"
    )


@pytest.mark.parametrize(
    "raw", ["\x1b[2J\x1b]0;title\x07", "\r", "\x00", "\u202e", "a\nb", "\x9b31m", "\x7f", "\udcff"]
)
def test_a_tools_output_cannot_drive_the_readers_terminal(raw: str) -> None:
    stream = io.StringIO()
    PlainView(stream, verbose=1)(Output(step="packages", tool="sh", text=f"x{raw}y"))
    (row,) = lines(stream)
    assert row.isprintable()
    assert row.startswith("    sh| x")
    assert row.endswith("y")
    assert len(stream.getvalue().splitlines()) == 1, "one event, one line"


def test_tabs_become_blanks_and_letters_stay() -> None:
    stream = io.StringIO()
    PlainView(stream, verbose=1)(Output(step="packages", tool="sh", text="é\t€"))
    assert lines(stream) == ["    sh| é    €"]


def test_a_silent_step_is_heard_of_with_its_last_line() -> None:
    stream = io.StringIO()
    view = PlainView(stream, heartbeat=0.08)
    view(step())
    view(Output(step="packages", tool="sh", text="fetching\x1b[1m"))
    time.sleep(0.3)
    view(BuildFinished(ok=True, exit_code=0, seconds=1.0))
    beats = [row for row in lines(stream) if "still in step packages" in row]
    assert 2 <= len(beats) <= 4
    assert beats[0] == "    still in step packages; last line: fetching?[1m"
    count = len(stream.getvalue())
    time.sleep(0.2)
    assert len(stream.getvalue()) == count, "it ends with the build"


def test_a_step_that_speaks_needs_no_heartbeat() -> None:
    stream = io.StringIO()
    view = PlainView(stream, verbose=1, heartbeat=0.4)
    view(step())
    for _ in range(12):
        view(Output(step="packages", tool="sh", text="x"))
        time.sleep(0.05)
    view(BuildFinished(ok=True, exit_code=0, seconds=1.0))
    assert not any("still in step" in row for row in lines(stream))


def test_lines_of_many_threads_are_whole() -> None:
    stream = io.StringIO()
    view = PlainView(stream, verbose=1)

    def speak() -> None:
        for _ in range(100):
            view(Output(step="packages", tool="sh", text="x" * 50))

    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines(stream) == ["    sh| " + "x" * 50] * 400


def test_every_event_is_one_json_line_with_its_kind() -> None:
    stream = io.StringIO()
    for event in EVENTS:
        JsonView(stream)(event)
    rows = [json.loads(row) for row in stream.getvalue().splitlines()]
    assert len(rows) == len(EVENTS)
    # A consumer tells them apart by one field.
    (key,) = [name for name in rows[0] if all(row[name] == event.kind for row, event in zip(rows, EVENTS, strict=True) if name in row)]  # fmt: skip
    assert all(key in row for row in rows)
    assert rows[5]["paths"] == 2


def test_quiet_is_quiet() -> None:
    stream = io.StringIO()
    view = view_for(stream, verbose=0, quiet=True)
    for event in EVENTS:
        view(event)
    assert stream.getvalue() == ""
    assert isinstance(view_for(stream, verbose=0, quiet=False), PlainView)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (5000 << 30, "5000.0 GiB")],
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size_text(count) == text


LONG: list[Event] = [
    Output(step="packages", tool="sh", text="a" * 60_000, line=1, part=1),
    Output(step="packages", tool="sh", text="b" * 60_000, line=1, part=2),
    Output(step="packages", tool="sh", text="c", line=1, part=3, size=31_457_280),
    Output(step="packages", tool="sh", text="d" * 5000),
]


def test_a_long_line_is_cut_for_display_and_its_length_told() -> None:
    stream = io.StringIO()
    view = PlainView(stream, verbose=1)
    for event in LONG:
        view(event)
    assert lines(stream) == [
        f"    sh| {'a' * SHOWN} [...]",
        "    sh| [30.0 MiB in that line; the event log has more of it]",
        f"    sh| {'d' * SHOWN} [3,000 more characters in this line]",
    ]


def test_the_heartbeat_shows_the_beginning_of_a_long_line() -> None:
    stream = io.StringIO()
    view = PlainView(stream, heartbeat=0.05)
    view(step())
    for event in LONG[:3]:
        view(event)
    time.sleep(0.2)
    view(BuildFinished(ok=True, exit_code=0, seconds=1.0))
    (beat, *_) = (row for row in lines(stream) if "still in step" in row)
    assert beat == f"    still in step packages; last line: {'a' * 200}"
