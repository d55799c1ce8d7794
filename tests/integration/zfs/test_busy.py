"""Datasets that somebody holds, that are not ours, or that this user may not touch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from buildstep.errors import DatasetError, ToolMissing
from buildstep.pool import zfs as driver
from buildstep.pool.interface import Kind
from buildstep.pool.zfs import ZfsBackend
from buildstep.pool.zfs_library import Busy
from tests.integration.pools import IMAGE, IN_GUEST, OTHER, command, fill, location

pytestmark = pytest.mark.skipif(not IN_GUEST, reason="runs in the ZFS guest")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZfsBackend]:
    with location("zfs", tmp_path_factory.mktemp("unused")) as name:
        backend = ZfsBackend(name)
        base = backend.create("base")
        fill(base.path)
        backend.snapshot(base, Kind.IMAGE, IMAGE)
        yield backend


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_WAITS", (0.05,))


def test_whoever_holds_it_is_named(pool: ZfsBackend) -> None:
    """D37: retried, and then told by whom it is kept busy, also from another mount namespace."""
    clone = pool.clone(Kind.IMAGE, IMAGE, "b1")
    argv = ["unshare", "--mount", "sh", "-c", f"cd {clone.path} && exec sleep 1000 <etc/conf"]
    child = subprocess.Popen(argv)
    try:
        while not os.readlink(f"/proc/{child.pid}/cwd").endswith("/b1"):
            pass
        with pytest.raises(Busy) as caught:
            pool.destroy(Kind.BUILD, "b1")
    finally:
        child.kill()
        child.wait()
    assert f"process {child.pid}" in caught.value.detail
    assert "works in it" in caught.value.detail
    assert "etc/conf open" in caught.value.detail
    assert caught.value.retryable
    pool.destroy(Kind.BUILD, "b1")


def test_holds_are_named(pool: ZfsBackend) -> None:
    dataset = pool.create("b2")
    pool.snapshot(dataset, Kind.IMAGE, OTHER)
    final = f"{pool.dataset}/{OTHER}@final"
    command("zfs", "hold", "backup", final)
    with pytest.raises(Busy) as caught:
        pool.destroy(Kind.IMAGE, OTHER)
    assert "hold 'backup'" in caught.value.detail
    command(
        "zfs",
        "release",
        "backup",
        *command("zfs", "list", "-H", "-t", "snapshot", "-r", "-o", "name", pool.dataset).split()[-1:],
    )
    for ident in pool.idents(Kind.BUILD):
        pool.destroy(Kind.BUILD, ident)
    pool.destroy(Kind.IMAGE, OTHER)


def test_images_of_others_are_used_and_kept(pool: ZfsBackend) -> None:
    name = f"{pool.dataset}/{OTHER}"
    command("zfs", "create", name)
    command("zfs", "snapshot", f"{name}@final")
    assert pool.idents(Kind.IMAGE) == sorted([IMAGE, OTHER])
    pool.clone(Kind.IMAGE, OTHER, "b3")
    pool.destroy(Kind.BUILD, "b3")
    with pytest.raises(DatasetError, match="was not made by buildstep"):
        pool.destroy(Kind.IMAGE, OTHER)
    command("zfs", "set", "imgadm:ignore=true", name)
    assert pool.idents(Kind.IMAGE) == [IMAGE]
    command("zfs", "destroy", "-r", name)


def test_clones_are_marked(pool: ZfsBackend) -> None:
    pool.clone(Kind.IMAGE, IMAGE, "b4")
    told = command(
        "zfs", "get", "-H", "-o", "property,value", "imgadm:ignore,buildstep:build,buildstep:owner,mounted,mountpoint",
        f"{pool.dataset}/build-b4",
    )  # fmt: skip
    assert dict(row.split("\t") for row in told.splitlines()) == {
        "imgadm:ignore": "true",
        "buildstep:build": "b4",
        "buildstep:owner": f"uid=0 pid={os.getpid()}",
        "mounted": "yes",
        "mountpoint": "legacy",
    }
    pool.destroy(Kind.BUILD, "b4")


@pytest.mark.parametrize("name", ["zones/nowhere", "zones/agent/data@x", "zones/a b", "-r", "zones//x", ""])
def test_no_such_dataset(name: str) -> None:
    with pytest.raises(DatasetError):
        ZfsBackend(name)


def test_without_root(pool: ZfsBackend) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setuid(65534)
            try:
                ZfsBackend(pool.dataset)
            except (DatasetError, ToolMissing) as error:
                status = 0 if error.hint else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
