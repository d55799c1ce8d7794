"""The bus: a view that cannot be written to ends no build."""

from __future__ import annotations

import errno

import pytest

from buildstep.events import Bus, Event, Note


def test_a_log_on_a_full_disk_is_dropped_and_the_others_are_told() -> None:
    seen: list[Event] = []
    calls = 0

    def full(_event: Event) -> None:
        nonlocal calls
        calls += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    bus = Bus(full, seen.append)
    bus.note("one")
    bus.note("two")
    assert calls == 1
    texts = [event.text for event in seen if isinstance(event, Note)]
    assert sorted(texts) == ["a log of this build ends here: No space left on device", "one", "two"]


def test_a_reader_that_has_left_ends_nothing_and_the_stream_is_named() -> None:
    seen: list[Event] = []

    def gone(_event: Event) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe", "standard error")

    bus = Bus(gone, seen.append)
    bus.note("one")
    bus.note("two")
    assert _texts(seen) == ["a log of this build ends here: standard error: Broken pipe", "one", "two"]


def test_a_log_that_begins_later_is_told_what_was_lost_before() -> None:
    seen: list[Event] = []

    def gone(_event: Event) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    bus = Bus(gone)
    bus.note("one")
    bus.announce("standard output is closed")
    bus.subscribe(seen.append)
    bus.subscribe(gone)
    lost = "a log of this build ends here: Broken pipe"
    assert _texts(seen) == [lost, "standard output is closed", lost]


def test_two_views_that_are_lost_at_once_are_each_dropped_once() -> None:
    seen: list[Event] = []

    def gone(_event: Event) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def full(_event: Event) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    bus = Bus(gone, full, seen.append)
    bus.note("one")
    assert len(seen) == 3


def _texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def test_a_job_is_told_of_at_its_begin_and_its_end_and_never_between() -> None:
    seen: list[Event] = []
    bus = Bus(seen.append)
    bus.current = "import"

    def job() -> None:
        with bus.job("pull app:1", 100) as gauge:
            for _ in range(1000):
                gauge.advance(1)
            gauge.advance(-930)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        job()
    rows = [event.to_json() for event in seen]
    assert [
        (row["event"], row["step"], row["job"], row["state"], row["done"], row["total"]) for row in rows
    ] == [
        ("progress", "import", "pull app:1", "begin", 0, 100),
        ("progress", "import", "pull app:1", "end", 70, 100),
    ]
    assert rows[0].keys() == {"event", "time", "step", "job", "state", "done", "total", "unit", "seconds"}


def test_costs_can_be_asked_for_while_they_grow() -> None:
    bus, read = Bus(), {"bytes_read": 0}
    bus.count("bytes_read", 5)
    with bus.counting(lambda: read):
        read["bytes_read"] = 7
        assert (bus.so_far("bytes_read"), bus.counts) == (12, {"bytes_read": 5})
    assert (bus.so_far("bytes_read"), bus.counts) == (12, {"bytes_read": 12})
