"""Where a control group can be made, what is written into it, and that nothing else is ever removed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.system import cgroup, device_filter, mount_table
from buildstep.system.cgroup import Place
from buildstep.system.locks import lock_directory

Tree = Callable[[str, str], Path]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Make a machine with this table of mounts (TOP is its /) and these groups of ours; return its /."""

    def make(mounts: str, groups: str) -> Path:
        top = tmp_path / "top"
        (tmp_path / "proc/self").mkdir(parents=True)
        rows = [f"30 1 0:3 {row}".replace("TOP", str(top)) for row in mounts.strip().splitlines()]
        (tmp_path / "proc/self/mountinfo").write_text("\n".join(rows) + "\n")
        (tmp_path / "proc/self/cgroup").write_text(groups.replace(" ", "\n") + "\n")
        (tmp_path / "meminfo").write_text("MemTotal:        1000 kB\nMemFree: 1 kB\n")
        monkeypatch.setattr(mount_table, "PROC", tmp_path / "proc")
        monkeypatch.setattr(cgroup, "_SELF", tmp_path / "proc/self/cgroup")
        monkeypatch.setattr(cgroup, "_MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(device_filter, "possible", lambda: False)
        monkeypatch.setattr(cgroup, "_PATIENCE", 0.05)  # unlike a real group, one with files stays
        return top

    return make


def group(folder: Path, **files: str) -> Path:
    """A directory that looks like a group. In names of files __ stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"cgroup__procs": "", **files}.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


V1 = """
/ TOP/pids rw - cgroup cgroup rw,pids
/job TOP/memory rw - cgroup cgroup rw,memory
/ TOP/cpu rw - cgroup cgroup rw,cpu,cpuacct
/elsewhere TOP/devices rw - cgroup cgroup rw,devices
/ TOP/unified rw - cgroup2 cgroup2 rw
"""
V2 = "/ TOP rw - cgroup2 cgroup2 rw,nsdelegate"


def test_version_1_is_made_below_our_own(tree: Tree) -> None:
    top = tree(V1, "5:pids:/ 4:memory:/job/mine 3:devices:/job 2:cpu,cpuacct:/ 0::/")
    group(top / "unified", cgroup__controllers="hugetlb")
    group(top / "pids")
    group(top / "memory/mine")
    # The group that devices has us in is not to be seen in that mount.
    assert cgroup.places() == {"pids": Place(1, top / "pids"), "memory": Place(1, top / "memory/mine")}


def test_version_2_is_made_where_controllers_are_handed_on(tree: Tree) -> None:
    top = tree(V2, "0::/user/app/job")
    everything = "cpu memory pids"
    group(top, cgroup__controllers=everything, cgroup__subtree_control=everything)
    group(top / "user", cgroup__controllers=everything, cgroup__subtree_control=everything)
    group(top / "user/app", cgroup__controllers=everything, cgroup__subtree_control="memory")
    group(top / "user/app/job", cgroup__controllers="memory pids", cgroup__subtree_control="")
    # One place for all: of the nearest only memory can be had, and a process is in one group.
    assert cgroup.places() == {"memory": Place(2, top / "user/app")}


def test_nothing_can_be_made(tree: Tree) -> None:
    top = tree(V2, "0::/job")
    group(top / "job", cgroup__controllers="memory pids", cgroup__subtree_control="")
    assert cgroup.places() == {}
    assert cgroup.memory_here() == 1000 * 1024
    with cgroup.group({"pids": 5}) as made:
        assert (made.controllers, made.entrances, made.met()) == (frozenset(), [], {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_cannot_be_written_is_no_place(tree: Tree) -> None:
    top = tree(V1, "5:pids:/")
    group(top / "pids").chmod(0o555)
    assert cgroup.places() == {}


def test_memory_is_what_the_groups_leave(tree: Tree) -> None:
    top = tree(V2, "0::/a/b")
    group(top, cgroup__controllers="memory")
    group(top / "a", memory__max="500000")
    group(top / "a/b", memory__max="max", cgroup__controllers="memory")
    assert cgroup.memory_here() == 500_000


def test_processors_are_what_the_groups_leave(tree: Tree) -> None:
    top = tree(V2, "0::/a/b")
    group(top, cgroup__controllers="memory cpu")
    group(top / "a", cpu__max="250000 100000")
    group(top / "a/b", cpu__max="max 100000", cgroup__controllers="memory")
    assert cgroup.processors_here() == 3
    (top / "a/cpu.max").write_text("max 100000")
    assert cgroup.processors_here() == 0


def test_processors_of_version_1(tree: Tree) -> None:
    top = tree(V1, "2:cpu,cpuacct:/job")
    group(top / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    group(top / "cpu/job", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert cgroup.processors_here() == 1


def test_limits_are_written_and_noted_first(tree: Tree) -> None:
    top = tree(V1, "5:pids:/ 4:memory:/job")
    group(top / "pids")
    group(top / "memory")
    noted: list[Path] = []

    def note(folder: Path) -> None:
        assert not folder.exists()
        noted.append(folder)

    with (
        cgroup.noted(note),
        cgroup.group({"pids": 7, "memory": 4096}) as made,
    ):
        assert made.controllers == {"pids", "memory"}
        [pids, memory] = noted
        assert cgroup.NAME.fullmatch(pids.name)
        assert made.entrances == sorted(folder / "cgroup.procs" for folder in noted)
        assert (pids / "pids.max").read_text() == "7"
        assert (memory / "memory.limit_in_bytes").read_text() == "4096"
        assert (memory / "memory.memsw.limit_in_bytes").read_text() == "4096"
        (pids / "pids.events").write_text("max 3\n")
        (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
        assert made.met() == {"pids": 3, "memory": 2}


def test_version_2_kills_all_and_swaps_nothing(tree: Tree) -> None:
    top = tree(V2, "0::/job")
    group(top, cgroup__controllers="memory pids", cgroup__subtree_control="memory pids")
    group(top / "job", cgroup__controllers="memory pids")
    with cgroup.group({"pids": 7, "memory": 4096}) as made:
        [entrance] = made.entrances
        names = ("pids.max", "memory.max", "memory.swap.max", "memory.oom.group")
        assert [(entrance.parent / name).read_text() for name in names] == ["7", "4096", "0", "1"]
        assert entrance.parent.parent == top


def test_only_groups_of_ours_are_removed(tree: Tree, tmp_path: Path) -> None:
    top = tree(V1, "5:pids:/")
    ours = "buildstep-0123456789abcdef"
    theirs = group(top / "pids/docker-0123456789abcdef")
    elsewhere = group(tmp_path / ours)  # a planted directory, on a file system of another kind
    assert not cgroup.remove(theirs)
    assert not cgroup.remove(elsewhere)
    assert not cgroup.remove(top / "pids" / ours)
    assert theirs.exists()
    assert elsewhere.exists()


@pytest.mark.commands
def test_what_is_left_in_a_group_is_killed(tree: Tree) -> None:
    top = tree(V1, "5:pids:/")
    child = subprocess.Popen(["sleep", "60"])
    folder = group(top / "pids/buildstep-0123456789abcdef", cgroup__procs=f"0\n{child.pid}\n")
    with pytest.raises(OSError, match="not empty"):  # a real one has no files that keep it
        cgroup.remove(folder)
    assert child.wait(5) == -signal.SIGKILL


def test_old_groups_of_dead_builds_are_swept(tree: Tree) -> None:
    """A killed build whose pool was removed has no journal any more."""
    top = tree(V1, "5:pids:/")
    group(top / "pids")
    dead, alive, young, theirs = (
        top / "pids" / name
        for name in (
            "buildstep-00000000000000aa",
            "buildstep-00000000000000bb",
            "buildstep-00000000000000cc",
            "buildstep-of-somebody",
        )
    )
    for folder in (dead, alive, young, theirs):
        folder.mkdir()
        if folder != young:
            os.utime(folder, (1e9, 1e9))
    held = lock_directory(alive)
    assert held is not None
    try:
        with cgroup.group({"pids": 5}) as made:
            [ours] = made.entrances
            assert lock_directory(ours.parent) is None, "ours is locked as long as it is used"
    finally:
        os.close(held)
    assert [folder.exists() for folder in (dead, alive, young, theirs)] == [False, True, True, True]
