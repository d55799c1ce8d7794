"""How far apt is, by its status lines and the files it has fetched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.errors import CommandFailed
from buildstep.events import Bus, Event, Gauge, Progress, Reading
from buildstep.rootfs.installers import apt_progress
from buildstep.rootfs.installers.apt_archives import Archive


class Jobs:
    """A bus, and the gauge of its last job."""

    def __init__(self) -> None:
        self.events: list[Progress] = []
        self.bus = Bus(self._take)

    def _take(self, event: Event) -> None:
        assert isinstance(event, Progress)
        self.events.append(event)

    @property
    def gauge(self) -> Gauge:
        return self.events[-1].gauge


def test_the_last_whole_line_counts() -> None:
    jobs = Jobs()
    with apt_progress.changing(jobs.bus, "install packages") as (word, fd):
        assert word == f"-oAPT::Status-Fd={fd}"
        assert jobs.gauge.reading() == Reading(0)
        os.write(
            fd, b"pmstatus:dpkg-exec:0:Running dpkg\npmstatus:libc6:amd64:37.5:Unpacking libc6 (amd64)\n"
        )
        assert jobs.gauge.reading() == Reading(37, text="Unpacking libc6 (amd64)")
        os.write(fd, b"pmerror:x:40:bad\n" * 500 + b"pmstatus:x:99.9:Configuring \xff\npmstatus:half")
        assert jobs.gauge.reading() == Reading(99, text="Configuring \ufffd")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert jobs.gauge.reading().done == 99, "as it was"
    assert [(event.state, event.done, event.total, event.unit) for event in jobs.events] == [
        ("begin", 0, 100, "percent"),
        ("end", 99, 100, "percent"),
    ]


def test_an_error_does_not_tell_of_the_option() -> None:
    with pytest.raises(CommandFailed) as caught, apt_progress.changing(Bus(), "install") as (word, _):
        raise CommandFailed(["apt-get", word, "install", "x"], 100, detail=f"in: apt-get {word} install x")
    assert caught.value.argv == ("apt-get", "install", "x")
    assert caught.value.detail == "in: apt-get install x"


def test_files_that_have_come_count_with_the_one_that_comes(tmp_path: Path) -> None:
    jobs = Jobs()
    wanted = [Archive(uri=f"http://x/{name}", name=name, size=100, digest="") for name in ("a.deb", "b.deb")]
    (tmp_path / "partial").mkdir()
    with apt_progress.fetching(jobs.bus, tmp_path, wanted):
        (tmp_path / "a.deb").write_bytes(b"x" * 100)
        (tmp_path / "partial/b.deb").write_bytes(b"x" * 30)
        (tmp_path / "other").write_bytes(b"x" * 1000)
        assert jobs.gauge.reading() == Reading(130, 1)
        assert (jobs.gauge.total, jobs.gauge.files) == (200, 2)
