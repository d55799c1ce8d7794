"""Limits of what a package script may take: real fork bombs, hogs and floods, each in a tight limit of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import CommandFailed
from buildstep.events import Bus
from buildstep.rootfs import sandbox
from buildstep.rootfs.sandbox import SandboxOptions
from buildstep.spec.fields import Limits
from buildstep.system import cgroup, command_output
from buildstep.system.locks import lock_directory
from tests.integration.conftest import demand
from tests.integration.ordinary_user import user
from tests.integration.support import Done, Lab, matches, ours, wait_for, write_base
from tests.integration.test_unprivileged import place, sublab

__all__ = ["place", "sublab", "user"]  # fixtures

TIGHT: dict[str, Any] = {"pids": 50, "memory": 64 << 20, "output": 2 << 20, "open_files": 200}

PATIENCE = 25
"""Seconds for a build that has to fail; a good one takes one or two."""


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "busybox", "bwrap", "rsync")
    return write_base(tmp_path_factory.mktemp("base") / "base.tar")


@pytest.fixture
def lab(base: Path, tmp_path: Path) -> Lab:
    return Lab(top=tmp_path, base=base, scheme="dir")


@pytest.fixture(autouse=True)
def no_group_stays() -> Iterator[None]:
    before = groups()
    yield
    new = groups() - before
    wait_for(lambda: not any(map(forsaken, new)))


def forsaken(folder: Path) -> bool:
    """Whether a group is there that no living build has locked."""
    try:
        fd = lock_directory(folder)
    except FileNotFoundError:
        return False
    if fd is not None:
        os.close(fd)
    return fd is not None


def groups() -> set[Path]:
    """All control groups of builds."""
    return set(Path("/sys/fs/cgroup").rglob("buildstep-*"))


def needs_groups(*names: str) -> None:
    if set(names) - cgroup.places().keys():
        pytest.skip("no control group can be made here")


def refused(lab: Lab, package: str, **limits: int) -> Done:
    lab.manifest(build={"limits": {**TIGHT, **limits}})
    begin = time.monotonic()
    done = lab.refused(12, "-p", package)
    assert time.monotonic() - begin < PATIENCE
    assert ours(os.fspath(lab.top)) == []
    return done


BOMB = "reached the limit of 50 processes (limits.pids)"
HOG = "used up the 64.0 MiB of memory it may use (limits.memory)"
FLOOD = "printed more than 2.0 MiB (limits.output)"


@pytest.mark.parametrize(
    ("package", "text", "setting"),
    [
        ("bomb-1", BOMB, "pids"),
        ("hog-1", HOG, "memory"),
        ("sly-1", HOG, "memory"),
        ("tmpfs-1", HOG, "memory"),
        ("flood-1", FLOOD, "output"),
        ("line-1", FLOOD, "output"),
        ("both-1", FLOOD, "output"),
    ],
)
def test_a_build_ends_with_the_limit_and_its_remedy(lab: Lab, package: str, text: str, setting: str) -> None:
    needs_groups("pids", "memory")
    done = refused(lab, package)
    assert text in done.stderr
    assert f'"limits": {{"{setting}": N}}' in done.stderr


@pytest.mark.parametrize(
    ("package", "text", "setting"),
    # No bomb: what the kernel refuses more processes may be gone, and asleep, before the build has counted
    # them. And where it is refused first, the message is another.
    [("swarm-1", "limits.pids", "pids"), ("hog-1", "limits.memory", "memory"), ("flood-1", FLOOD, "output")],
)
def test_a_build_without_root_ends_as_well(sublab: Any, package: str, text: str, setting: str) -> None:
    done = refused(sublab, package)
    assert text in done.stderr
    assert f'"limits": {{"{setting}": N}}' in done.stderr


def test_root_without_control_groups(lab: Lab, base: Path, private: Any, monkeypatch: Any) -> None:
    """Root is not held by rlimits on processes: the build counts them."""
    monkeypatch.setattr(cgroup, "places", dict)
    root = lab.top / "root"
    root.mkdir()
    subprocess.run(["tar", "-xf", base, "-C", root], check=True)

    def job() -> list[tuple[str, str]]:
        told = []
        with sandbox.enter(
            root, bus=Bus(), environ={}, options=SandboxOptions(limits=Limits(**TIGHT))
        ) as inside:
            # No bomb: nothing but the count stops it, and a busy machine may be late to count.
            for package in ("swarm", "hog"):
                try:
                    inside.run(["/opt/local/sbin/pkg_add", package])
                except CommandFailed as error:
                    told.append((error.message, error.hint))
        return told

    [bomb, hog] = private(job)
    assert BOMB in bomb[0]
    assert "it seems to have reached limits.memory" in hog[1]


def test_a_good_build_within_its_limits(lab: Lab) -> None:
    lab.manifest(build={"limits": TIGHT})
    lab.built("-p", "core-1")
    [log] = lab.out.glob("*.events.jsonl")
    events = [json.loads(row) for row in log.read_text().splitlines()]
    said = [row["text"] for row in events if row["event"] == "output" and row["tool"] == "pkg_add"]
    assert said == ["0", "200"]


def test_limits_of_the_configuration_and_of_a_variable(lab: Lab) -> None:
    (lab.top / "buildstep.toml").write_text("[limits]\noutput = 1000\n")
    done = lab.refused(12, "-p", "chatty-1")
    assert "printed more than 1000 B (limits.output)" in done.stderr
    # The file wins over the variable, m.json over both.
    done = lab.refused(12, "-p", "chatty-1", env={"BUILDSTEP_LIMITS": '{"output": 2000}'})
    assert "printed more than 1000 B (limits.output)" in done.stderr
    lab.manifest(build={"limits": {"output": 3000}})
    done = lab.refused(12, "-p", "chatty-1")
    assert "printed more than 2.9 KiB (limits.output)" in done.stderr


_PEAK = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
# By a small process of its own: the peak of a new process starts with that of the one that started it.


def _peak(lab: Lab, *argv: str) -> int:
    """Build, with what it prints in the file `said`; return the most memory that one of its processes took, in
    KiB."""
    with (lab.top / "said").open("wb") as said:
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, *lab.argv("-v", *argv)],
            env=lab.env(), cwd=lab.top, stdout=subprocess.PIPE, stderr=said, check=False,
        )  # fmt: skip
    assert done.returncode == 0, (lab.top / "said").read_text()[-2000:]
    return int(done.stdout)


def _said(log: Path) -> list[dict[str, Any]]:
    """The events of the package manager's output."""
    with log.open() as stream:
        return [row for row in map(json.loads, stream) if row.get("tool") == "pkg_add"]


def test_a_line_of_thirty_megabytes(lab: Lab) -> None:
    """It is cut for display, and its length told; it is whole in the log, and never whole in memory."""
    usual = _peak(lab, "-p", "one-1")
    log = lab.top / "all.jsonl"
    assert _peak(lab, "-p", "long-1", "--log-json", os.fspath(log)) < usual + 16_000
    [events] = lab.out.glob("*.events.jsonl")
    line = "".join(f"{number:01048576d}" for number in range(30))
    for path in (log, events):
        *parts, last = _said(path)
        assert last["text"] == "end"
        assert "".join(row["text"] for row in parts) == line
        assert [row["part"] for row in parts] == list(range(1, len(parts) + 1))
        assert parts[-1]["size"] == len(line)
    shown = (lab.top / "said").read_text()
    assert "[30.0 MiB in that line; the event log has more of it]" in shown
    assert max(map(len, shown.splitlines())) < 2200
    [record] = lab.out.glob("*.buildrecord.json")
    assert record.stat().st_size < 100_000
    lab.manifest(name="failed")
    done = lab.refused(12, "-p", "long-1,fail-1")
    assert "[30.0 MiB in this line]" in done.stderr
    assert len(done.stderr) < 10_000


def test_ninety_megabytes_of_output_take_little_memory_and_disk(lab: Lab) -> None:
    """A line of control characters takes six times as much in JSON: the log has no more than so much of it."""
    lab.manifest(build={"limits": {"output": 0}})
    log = lab.top / "all.jsonl"
    assert _peak(lab, "--log-json", os.fspath(log), "-p", "chatty-1") < 150_000
    [events] = lab.out.glob("*.events.jsonl")
    for path in (log, events):
        assert path.stat().st_size < 1.05 * command_output.LONG, path
    assert (lab.top / "said").stat().st_size < 100_000
    texts = [row["text"] for row in _said(events)]
    assert texts[-1] == "end"
    assert "more in this line]" in texts[-2]
    report = lab.top / "report.html"
    [record] = lab.out.glob("*.buildrecord.json")
    assert lab.command("report", "-o", os.fspath(report), os.fspath(record)).status == 0
    assert report.stat().st_size < 2_000_000


def test_a_killed_build_leaves_a_group_that_heal_removes(lab: Lab) -> None:
    needs_groups("pids", "memory")
    child = subprocess.Popen(
        lab.argv("-p", "hang-1"),
        env=lab.env(),
        cwd=lab.top,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: matches(lab.pool, "build/*/*/opt/local/hanging"), child)
        [journal] = lab.pool.glob("state/journal/*.jsonl")
        rows = [json.loads(row) for row in journal.read_text().splitlines()]
        made = {Path(row["path"]) for row in rows if row.get("acquire") == "cgroup"} & groups()
        assert len(made) == len({place.folder for place in cgroup.places().values()})
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    wait_for(lambda: not ours(os.fspath(lab.top)))
    left = lab.heal()
    assert {Path(item["name"]) for item in left if item["kind"] == "cgroup"} == made
    assert all(item["removed"] for item in left)
    assert not made & groups()


def test_the_devices_of_the_host_stay_closed(lab: Lab, base: Path, private: Any) -> None:
    """By the device rule alone: here the node lies on a file system that is not nodev."""
    needs_groups("devices")

    def job() -> str:
        with cgroup.group({}) as made:
            enter = " && ".join(f"echo 0 > {path}" for path in made.entrances)
            script = f"{enter} && mknod {lab.top}/node b 7 0 && cat {lab.top}/node; cat /dev/null; echo $?"
            return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False).stdout

    assert private(job) == "0\n"
    with contextlib.suppress(OSError):
        (lab.top / "node").unlink()
