"""The event log of a build on a disk that is full."""

from __future__ import annotations

import errno
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from buildstep.build import log_file
from buildstep.build.log_file import BuildLog
from buildstep.errors import EmitError
from buildstep.events import Bus, Event, Note
from buildstep.report.record import BuildRecord

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")

RECORD = BuildRecord(
    build_id="b",
    name="x",
    version="1",
    ok=False,
    inputs={},
    started=datetime.fromtimestamp(0, UTC),
    seconds=0,
)


def test_a_log_that_does_not_fit_hides_no_error_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Event] = []
    bus = Bus(seen.append)
    monkeypatch.setattr(log_file, "create", lambda _: os.open("/dev/full", os.O_WRONLY))

    def build() -> None:
        with BuildLog(tmp_path / "x-1", tmp_path, "b", bus):
            bus.note("something")
            raise EmitError("the first")

    with pytest.raises(EmitError, match="the first"):
        build()
    texts = [event.text for event in seen if isinstance(event, Note)]
    assert texts == ["something", "the event log is incomplete: No space left on device"]


def test_half_a_log_of_a_failed_build_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(_source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", copy)
    with BuildLog(tmp_path / "x-1", tmp_path, "b", Bus()) as log, pytest.raises(OSError, match="No space"):
        log.keep_failed(RECORD)
    assert list((tmp_path / "logs").iterdir()) == []
