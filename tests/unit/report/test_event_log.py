"""The event log: every event, exactly, as it comes; a full disk does not fail the build."""

from __future__ import annotations

import errno
import io
import json
import threading
import tracemalloc
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from buildstep.events import Bus, Output, StepFinished
from buildstep.report.event_log import EventLog, read_events, step_tail
from buildstep.report.log_pack import pack
from buildstep.system.text import SHOWN
from tests.unit import reportdata


def test_lines_are_what_the_events_say() -> None:
    stream = io.BytesIO()
    told = list(reportdata.events(50))
    log = EventLog(stream)
    for event in told:
        log(event)
    log.flush()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines == [json.loads(json.dumps(event.to_json())) for event in told]


@given(st.text(), st.text(), st.text(), st.floats(0, 4e9))
def test_any_output_comes_back(step: str, tool: str, text: str, time: float) -> None:
    stream = io.BytesIO()
    event = Output(time=time, step=step, tool=tool, text=text)
    log = EventLog(stream)
    log(event)
    log.flush()
    [line] = stream.getvalue().splitlines()
    assert json.loads(line) == event.to_json()


def test_a_follower_sees_each_step(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stream:
        log = EventLog(stream)
        log(Output(time=1.0, tool="t", text="first"))
        log(Output(time=1.1, tool="t", text="in the buffer"))
        assert [event["text"] for event in read_events(path)] == ["first"]
        log(StepFinished(time=1.2, step="s", state="run", seconds=1))
        assert len(list(read_events(path))) == 3
        log(Output(time=2.3, tool="t", text="a second later"))
        assert len(list(read_events(path))) == 4


class Full(io.BytesIO):
    def write(self, _data: object, /) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_kept_for_the_caller() -> None:
    log = EventLog(Full())
    for event in reportdata.events(100):
        log(event)
    log.flush()
    assert log.problem is not None
    assert log.problem.errno == errno.ENOSPC


def test_threads_do_not_mix_their_lines() -> None:
    stream = io.BytesIO()
    log = EventLog(stream)
    bus = Bus(log)

    def talk() -> None:
        for _ in range(2000):
            bus.output("t", "x" * 50)

    threads = [threading.Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.flush()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 8000
    assert all(json.loads(line)["text"] == "x" * 50 for line in lines)


def test_memory_is_flat(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as stream:
        log = EventLog(stream)
        tracemalloc.start()
        for number in range(40_000):
            log(Output(time=5.0, step="s", tool="t", text=f"{number} and more"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2_000_000


def test_damage_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"event": "output", "text": "good"}\n\n\xff\xfe\n[1]\n{"event": "note", "te')
    told = list(read_events(path))
    assert [event["event"] for event in told] == ["output", "note", "note", "note"]
    assert "line 5" in told[-1]["text"]


def test_the_parts_of_a_long_line_are_put_together_by_their_number(tmp_path: Path) -> None:
    """All of it is in the log; a report shows how it begins and how long it is."""
    path = tmp_path / "log"
    told = [("a" * 60_000, 1, 0), ("b" * 60_000, 2, 0), ("c", 3, 120_001)]
    with path.open("wb") as stream:
        log = EventLog(stream)
        for text, part, size in told:
            log(Output(time=1.0, step="s", tool="t", text=text, line=1, part=part, size=size))
        log(Output(time=1.0, step="s", tool="t", text="after"))
        log.flush()
    events = list(read_events(path))
    assert "".join(event["text"] for event in events if event.get("line") == 1) == "".join(
        text for text, _, _ in told
    )
    assert events[2]["size"] == 120_001
    assert not {"line", "part", "size"} & set(events[3])
    shown = step_tail(path, "s")
    assert shown == [
        f"{'a' * SHOWN} [...]",
        "[117.2 KiB in that line; the event log has more of it]",
        "after",
    ]
    page = io.BytesIO()
    assert pack(path, page).rows == 3
