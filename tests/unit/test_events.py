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


def test_a_reader_that_is_gone_ends_the_command() -> None:
    def gone(_event: Event) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        Bus(gone).note("one")
