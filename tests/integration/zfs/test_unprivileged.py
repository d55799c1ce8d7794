"""What `zfs allow` gives to a user who is not root on Linux, call by call, and what it cannot give: mounting."""

from __future__ import annotations

import os
import pickle
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import BuildstepError, ToolMissing
from buildstep.pool import zfs_permissions
from buildstep.pool.streams import consuming, producing
from buildstep.pool.zfs import ZfsBackend
from buildstep.pool.zfs_library import Props, Zfs
from buildstep.system.mounts import mount
from tests.integration.pools import DELEGATED, IN_GUEST, command
from tests.integration.support import REPOSITORY
from tests.rounds import chosen

pytestmark = pytest.mark.skipif(not IN_GUEST, reason="runs in the ZFS guest")

POOL = f"{DELEGATED}/users"
NOBODY = 65534
PROPS: Props = {
    "mountpoint": "legacy", "atime": 0, "sync": 2, "acltype": 1, "imgadm:ignore": "true",
    "buildstep:build": "x", "buildstep:owner": "nobody",
}  # fmt: skip
"""As the backend sets them."""

CALLS = ("create", "snapshot", "clone", "set", "rename", "holds", "send", "receive", "destroy")
REFUSED = {
    "acltype": "create", "atime": "create", "clone": "clone", "create": "create", "destroy": "destroy",
    "mount": "create", "mountpoint": "create", "readonly": "set", "receive": "receive", "rename": "rename",
    "send": "send", "snapshot": "snapshot", "sync": "create", "userprop": "create",
}  # fmt: skip
"""The first call that fails without a permission."""


@pytest.fixture
def pool() -> Iterator[str]:
    command("zfs", "create", POOL)
    # As the rules of OpenZFS for udev have it; the guest runs without udev.
    os.chmod("/dev/zfs", 0o666)
    try:
        yield POOL
    finally:
        os.chmod("/dev/zfs", 0o600)
        command("zfs", "destroy", "-R", "-f", POOL)


def as_nobody(job: Callable[[], Any]) -> Any:
    """Run a job in a child that is nobody; returns what it returned, or fails with its traceback."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                told: tuple[bool, Any] = (True, job())
            except BaseException:  # noqa: BLE001 - told to the test
                told = (False, traceback.format_exc())
            os.write(write, pickle.dumps(told))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    good, value = pickle.loads(data)
    assert good, value
    return value


def every_call() -> list[tuple[str, str]]:
    """All that a build, an import and a removal ask of ZFS; what was refused, each with its hint."""
    zfs = Zfs()
    one, two, got = (f"{POOL}/build-{name}" for name in ("one", "two", "got"))

    def transfer() -> None:
        with tempfile.TemporaryFile() as file:
            with producing(lambda fd: zfs.send(f"{one}@final", None, fd)) as (read, flow):
                while chunk := os.read(read, 1 << 16):
                    file.write(chunk)
                flow.check()
            file.seek(0)
            with consuming(
                lambda fd: zfs.receive(f"{got}@final", fd, origin=None, props={**PROPS, "readonly": 1})
            ) as (write, _):
                os.write(write, file.read())

    def destroy() -> None:
        for name in (got, f"{POOL}/renamed", one):
            zfs.destroy_snapshot(f"{name}@final")
            zfs.destroy(name)

    calls: dict[str, Callable[[], object]] = {
        "create": lambda: zfs.create(one, PROPS),
        "snapshot": lambda: zfs.snapshot(f"{one}@final"),
        "clone": lambda: zfs.clone(two, f"{one}@final", PROPS),
        "set": lambda: zfs.set(two, {"readonly": 1, "imgadm:ignore": "false"}),
        "rename": lambda: zfs.rename(two, f"{POOL}/renamed"),
        "holds": lambda: zfs.holds(f"{one}@final"),
        "send": transfer,
        "destroy": destroy,
    }
    refused = []
    for name, call in calls.items():
        try:
            call()
        except BuildstepError as error:
            # Both are one call here; the message knows which of them it was.
            refused.append(("receive" if "receive" in error.message else name, error.hint))
    return refused


def test_every_operation_but_mounting_can_be_delegated(pool: str) -> None:
    command("zfs", "allow", "nobody", ",".join(zfs_permissions.NEEDED), pool)
    assert as_nobody(lambda: zfs_permissions.missing(pool)) == []
    assert as_nobody(every_call) == []
    assert command("zfs", "list", "-H", "-r", "-o", "name", pool).split() == [pool]

    def mounts() -> str:
        zfs = Zfs()
        zfs.create(f"{pool}/build-one", PROPS)
        try:
            mount(f"{pool}/build-one", tempfile.mkdtemp(dir="/tmp"), "zfs")
        except BuildstepError as error:
            return error.message
        finally:
            zfs.destroy(f"{pool}/build-one")
        return ""

    assert "not permitted" in as_nobody(mounts)
    assert not as_nobody(zfs_permissions.may_mount)
    assert zfs_permissions.may_mount()


@pytest.mark.parametrize("permission", chosen(list(zfs_permissions.NEEDED), 5))
def test_what_is_missing_is_named(pool: str, permission: str) -> None:
    """Each permission is needed by some call, and the error names it and how to get it."""
    rest = [word for word in zfs_permissions.NEEDED if word != permission]
    command("zfs", "allow", "nobody", ",".join(rest), pool)
    assert as_nobody(lambda: zfs_permissions.missing(pool)) == [permission]
    refused = as_nobody(every_call)
    call, hint = refused[0]
    assert call == REFUSED[permission]
    assert f"zfs allow nobody {permission} {pool}" in hint


@pytest.mark.parametrize(
    ("grants", "complete"),
    [
        ([["-g", "nogroup", "ALL"]], True),
        ([["-e", "ALL"]], True),
        ([["-s", "@build", "ALL"], ["nobody", "@build"]], True),
        ([["-c", "ALL"], ["-l", "nobody", "create,mount"]], True),
        ([["-d", "nobody", "ALL"]], True),
        ([["-s", "@build", "ALL"], ["root", "@build"]], False),
        ([["daemon", "ALL"], ["-g", "daemon", "ALL"]], False),
    ],
)
def test_however_it_is_given(pool: str, grants: list[list[str]], complete: bool) -> None:
    everything = ",".join(zfs_permissions.NEEDED)
    for words in grants:
        command("zfs", "allow", *(word.replace("ALL", everything) for word in words), pool)
    assert as_nobody(lambda: zfs_permissions.missing(pool)) == (
        [] if complete else list(zfs_permissions.NEEDED)
    )


def test_what_a_parent_gives_counts_but_not_what_it_keeps_to_itself(pool: str) -> None:
    command("zfs", "allow", "-l", "nobody", ",".join(zfs_permissions.NEEDED), DELEGATED)
    try:
        assert as_nobody(lambda: zfs_permissions.missing(pool)) == list(zfs_permissions.NEEDED)
        command("zfs", "allow", "nobody", ",".join(zfs_permissions.NEEDED), DELEGATED)
        assert as_nobody(lambda: zfs_permissions.missing(pool)) == []
    finally:
        command("zfs", "unallow", "nobody", DELEGATED)


def listing() -> str:
    return command("zfs", "list", "-H", "-t", "all", "-r", "-o", "name", POOL)


def test_a_pool_is_refused_before_anything_is_made(pool: str) -> None:
    before = listing()

    def opened() -> tuple[int, str, str]:
        try:
            ZfsBackend(pool)
        except ToolMissing as error:
            return error.code, error.detail, error.hint
        return 0, "", ""

    code, detail, hint = as_nobody(opened)
    assert code == 5
    assert "CAP_SYS_ADMIN" in detail
    assert f"of `zfs allow` on {pool}: {','.join(zfs_permissions.NEEDED)}" in detail
    assert "as root" in hint
    command("zfs", "allow", "nobody", ",".join(zfs_permissions.NEEDED[1:]), pool)
    assert f"on {pool}: {zfs_permissions.NEEDED[0]}" in as_nobody(opened)[1]
    command("zfs", "allow", "nobody", ",".join(zfs_permissions.NEEDED), pool)
    assert "of `zfs allow`" not in as_nobody(opened)[1]
    assert listing() == before


def built_by_nobody(pool: str) -> subprocess.CompletedProcess[str]:
    """A build in a process of its own: a fork of ours would have /dev/zfs open already."""
    proto = Path(tempfile.mkdtemp(dir="/var/tmp"))
    os.chmod(proto, 0o755)
    argv = [
        "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "python3", "-P", "-m", "buildstep",
        "build", "-m", '{"name": "x", "version": "1"}', "-i", "scratch", "-f", "zfs", "--pool", f"zfs:{pool}",
        "-o", "/tmp/nobodys-out", str(proto),
    ]  # fmt: skip
    before = listing()
    env = {**os.environ, "PYTHONPATH": os.fspath(REPOSITORY), "HOME": "/nonexistent"}
    done = subprocess.run(argv, env=env, cwd="/tmp", capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert not os.path.exists("/tmp/nobodys-out")
    assert listing() == before
    proto.rmdir()
    return done


def test_a_build_ends_with_the_documented_status(pool: str) -> None:
    command("zfs", "allow", "nobody", ",".join(zfs_permissions.NEEDED), pool)
    done = built_by_nobody(pool)
    assert done.returncode == 5, done.stderr
    assert "this user cannot build in" in done.stderr
    assert "CAP_SYS_ADMIN" in done.stderr


def test_a_device_that_is_closed_to_the_user(pool: str) -> None:
    os.chmod("/dev/zfs", 0o600)
    done = built_by_nobody(pool)
    assert done.returncode == 5, done.stderr
    assert "may this user open /dev/zfs?" in done.stderr
