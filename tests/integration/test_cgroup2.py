"""Control groups of version 2 on a real kernel; where version 1 has the controllers, in a guest: make check-zfs."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import CommandFailed
from buildstep.rootfs import limits
from buildstep.spec.fields import Limits
from buildstep.system import cgroup, device_filter, mount_table, mounts, process
from buildstep.system.cgroup import Place
from tests.integration.support import wait_for

TREE = Path("/sys/fs/cgroup")


@pytest.fixture
def job_group() -> Iterator[Path]:
    """A group that we are in, below one that hands its controllers on, as a service of systemd is."""
    if os.geteuid() != 0:
        pytest.skip("not root")
    mounted = not (TREE / "cgroup.procs").exists() and bool(os.environ.get("BUILDSTEP_GUEST"))
    if mounted:
        TREE.mkdir(exist_ok=True)
        mounts.mount("none", TREE, "cgroup2")
    if not {"pids", "memory"} <= set((TREE / "cgroup.controllers").read_text().split() if mounted else ()):
        pytest.skip("the controllers are not those of version 2, or the machine's tree is not ours")
    (TREE / "cgroup.subtree_control").write_text("+pids +memory")
    folder = TREE / f"test-{secrets.token_hex(4)}"
    folder.mkdir()
    (folder / "cgroup.procs").write_text("0")
    yield folder
    (TREE / "cgroup.procs").write_text("0")
    folder.rmdir()
    mounts.unmount(TREE)


def none_left() -> bool:
    """Whether our group is empty. A bomb without a PID namespace leaves its dead to us, and they count."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    [made] = TREE.glob("buildstep-*")
    return (made / "pids.current").read_text() == "0\n"


@pytest.mark.usefixtures("job_group")
def test_zfs_guest_limits_of_version_2(private: Any) -> None:
    """Bomb and hog in tight limits, and devices, all by the group alone."""

    def job() -> None:
        assert set(cgroup.places().values()) == {Place(2, TREE)}
        assert set(cgroup.places()) == {"pids", "memory", "devices"}
        with limits.confine(Limits(pids=50, memory=64 << 20)) as confinement:

            def run(script: str) -> str:
                wait_for(none_left)
                confinement.begin()
                watched = process.Limits(60, answer=1000, watch=confinement.reached)
                return process.run([*confinement.prefix(), "sh", "-c", script], limits=watched).stdout

            with pytest.raises(CommandFailed, match="reached the limit of 50 processes"):
                run("f() { f | f & }; f; sleep 60")
            with pytest.raises(CommandFailed, match=r"used up the 64\.0 MiB of memory"):
                run("dd if=/dev/zero of=/dev/null bs=524288000 count=1; sleep 60")
            assert (
                run("dd if=/dev/zero bs=1 count=1 2>/dev/null | wc -c; mknod /tmp/node b 7 0; echo $?")
                == "1\n0"
            )
            denied = run(
                "dd if=/tmp/node of=/dev/null count=1 2>&1; dd if=/dev/kmsg of=/dev/null count=1 2>&1; :"
            )
            assert denied.count(os.strerror(errno.EPERM)) == 2, denied
        assert list(TREE.glob("buildstep-*")) == []
        subprocess.run(["rm", "-f", "/tmp/node"], check=True)

    private(job)


def test_a_device_filter_alone() -> None:
    """Wherever version 2 is mounted, with whatever controllers."""
    tree = next((Path(mount.point) for mount in mount_table.mounts() if mount.kind == "cgroup2"), None)
    if tree is None or not device_filter.possible():
        pytest.skip("no version 2, or the kernel takes no filter from us")
    folder = tree / f"buildstep-{secrets.token_hex(8)}"
    folder.mkdir()
    node = Path("/tmp") / folder.name
    try:
        device_filter.attach(folder, cgroup.DEVICES)
        script = f"""
            echo 0 > {folder}/cgroup.procs
            for name in null zero full random urandom; do head -c 0 /dev/$name && echo ok; done
            mknod {node} b 7 0; echo $?
            head -c 1 {node}; head -c 1 /dev/kmsg
        """
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
        assert done.stdout.split() == [*["ok"] * 5, "0"], done.stderr
        assert done.stderr.count(os.strerror(errno.EPERM)) == 2, done.stderr
    finally:
        node.unlink(missing_ok=True)
        cgroup.remove(folder)
    assert not folder.exists()
