"""Limits of commands in an image: which ones hold, how a command gets into them, and what is told."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from buildstep.rootfs import limits
from buildstep.rootfs.limits import Confinement
from buildstep.spec.fields import Limits
from buildstep.system import cgroup
from buildstep.system.cgroup import Group, Place

SMALL = Limits(pids=50, memory=64 << 20, output=1000, open_files=32, file_size=1 << 20)


class Counts(Group):
    """A group of which the test says what it has met."""

    def __init__(self, **met: int) -> None:
        super().__init__({name: Place(1, Path(f"/nowhere/{name}")) for name in met})
        self.now: dict[str, int] = met

    def met(self) -> dict[str, int]:
        return dict(self.now)


def test_what_is_not_given_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "memory_here", lambda: 4 << 30)
    assert limits.effective(Limits(output=0)) == Limits(
        pids=8192, memory=3 << 30, output=0, open_files=16384, file_size=16 << 30
    )
    assert limits.effective(SMALL) == SMALL


def test_what_was_met_before_is_not_the_fault_of_the_next() -> None:
    met = Counts(pids=3, memory=0)
    confinement = Confinement(SMALL, met)
    assert confinement.reached() is None
    met.now["pids"] = 4
    assert confinement.reached() == ("pids", "reached the limit of 50 processes")
    confinement.begin()
    assert confinement.reached() is None
    met.now["memory"] = 1
    assert confinement.reached() == ("memory", "used up the 64.0 MiB of memory it may use")


def test_processes_are_counted_where_no_group_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_processes", lambda: 51)
    assert Confinement(SMALL, Counts()).reached() is None, "those of the whole machine are not ours"
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert Confinement(SMALL, Counts()).reached() == ("pids", "reached the limit of 50 processes")
    assert Confinement(SMALL, Counts(pids=0)).reached() is None
    assert Confinement(Limits(pids=0), Counts()).reached() is None


@pytest.mark.parametrize(
    ("said", "suspect"),
    [
        ("perl: Out of memory!", "memory"),
        ("sh: 1: Cannot fork", "pids"),
        ("open: Too many open files", "open_files"),
        ("truncate: failed: File too large", "file_size"),
        ("No such file or directory", ""),
    ],
)
def test_a_limit_that_nobody_counts_is_suspected(said: str, suspect: str) -> None:
    assert Confinement(SMALL, Counts()).suspected(said) == suspect
    counted = Confinement(SMALL, Counts(pids=0, memory=0)).suspected(said)
    assert counted == (suspect if suspect in ("open_files", "file_size") else ""), (
        "what is counted is not guessed at"
    )


def test_a_remedy_names_both_places() -> None:
    assert '"limits": {"pids": N}' in limits.remedy("pids")
    assert "pids = N under [limits] in buildstep.toml" in limits.remedy("pids")


def started(confinement: Confinement, script: str) -> subprocess.CompletedProcess[str]:
    argv = [*confinement.prefix(), "sh", "-c", script]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.commands
def test_rlimits_are_set_where_no_group_keeps_them() -> None:
    done = started(
        Confinement(SMALL, Counts()), "ulimit -c; ulimit -n; ulimit -f; ulimit -d; ulimit -p || ulimit -u"
    )
    assert done.stdout.split() == ["0", "32", "2048", str(64 << 10), str(50 + limits._SPARE)]
    free = Limits(pids=0, memory=0, open_files=0, file_size=0)
    done = started(Confinement(free, Counts()), "ulimit -c; ulimit -d; ulimit -f")
    assert done.stdout.split() == ["0", "unlimited", "unlimited"]


@pytest.mark.commands
def test_no_limit_is_above_the_hard_one_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    hard = {
        resource.RLIMIT_NOFILE: 20,
        resource.RLIMIT_FSIZE: 10 << 10,
        resource.RLIMIT_DATA: 32 << 20,
        resource.RLIMIT_NPROC: 40,
    }
    monkeypatch.setattr(resource, "getrlimit", lambda which: (0, hard[which]))
    asked = "ulimit -n; ulimit -f; ulimit -d; ulimit -p || ulimit -u"
    assert started(Confinement(SMALL, Counts()), asked).stdout.split() == ["20", "20", str(32 << 10), "40"]
    told = dict(limits.in_force(SMALL))
    assert (told["open_files"], told["file_size"]) == ("20 a process", "10.0 KiB a file")


@pytest.mark.commands
def test_a_file_that_grows_too_large_is_an_error_that_the_program_tells(tmp_path: Path) -> None:
    done = started(
        Confinement(SMALL, Counts()),
        f"truncate -s 2M {tmp_path}/hole; dd if=/dev/zero of={tmp_path}/full bs=64k count=32",
    )
    assert done.returncode == 1
    assert done.stderr.count("File too large") == 2, done.stderr


@pytest.mark.commands
def test_a_command_enters_the_group_or_does_not_start(tmp_path: Path) -> None:
    entrance = tmp_path / "it's/cgroup.procs"
    entrance.parent.mkdir()
    entrance.touch()
    made = Group({"pids": Place(1, entrance.parent)})
    assert started(Confinement(SMALL, made), "echo in").stdout == "in\n"
    assert entrance.read_text() == "0\n"
    entrance.unlink()
    entrance.mkdir()
    done = started(Confinement(SMALL, made), "echo in")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "limits: the control group cannot be entered\n"


def test_only_what_is_limited_gets_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Mapping[str, int]] = []

    @contextlib.contextmanager
    def group(given: Mapping[str, int]) -> Iterator[Group]:
        asked.append(given)
        yield Group({})

    monkeypatch.setattr(cgroup, "group", group)
    with limits.confine(Limits(pids=0, memory=7)) as confinement:
        assert confinement.output == limits.DEFAULT_OUTPUT
    with limits.confine(Limits(memory=0, output=0)) as confinement:
        assert confinement.output is None
    assert asked == [{"memory": 7}, {"pids": limits.DEFAULT_PIDS}]


def test_the_doctor_is_told_how_each_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "places", lambda: {"pids": Place(2, Path("/x"))})
    told = dict(limits.in_force(SMALL))
    assert told["pids"] == "50 processes, by a control group, version 2"
    assert told["memory"].startswith("64.0 MiB, for each process by itself")
    assert told["output"] == "1000 B a command"
    assert "the image's mounts alone" in told["devices"]
