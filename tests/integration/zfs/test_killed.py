"""SIGKILL after every call that changes the pool (and so before the next), then `heal`: what is left is what was there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.pool import zfs as driver
from buildstep.pool.heal import heal
from buildstep.pool.interface import Kind
from buildstep.pool.journal import open_journal
from buildstep.pool.streams import consuming, producing
from buildstep.pool.zfs import ZfsBackend
from buildstep.pool.zfs_library import Zfs
from buildstep.system import namespaces
from tests.integration.pools import IMAGE, IN_GUEST, KEY, OTHER, command, fill, location

pytestmark = pytest.mark.skipif(not IN_GUEST, reason="runs in the ZFS guest")

CALLS = ("create", "clone", "snapshot", "rename", "set", "destroy_snapshot", "destroy", "receive")


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with location("zfs", tmp_path_factory.mktemp("unused")) as name:
        backend = ZfsBackend(name)
        base = backend.create("base")
        fill(base.path)
        backend.snapshot(base, Kind.IMAGE, IMAGE)
        yield name


def datasets(name: str) -> list[str]:
    return command("zfs", "list", "-H", "-t", "all", "-r", "-o", "name", name).splitlines()


def build(backend: ZfsBackend, ident: Callable[[str], str]) -> None:
    """Everything that a build, an import and a removal do to a pool."""
    dataset = backend.create(ident("import"))
    (dataset.path / "file").write_text("x")
    backend.snapshot(dataset, Kind.IMAGE, OTHER)
    backend.destroy(Kind.IMAGE, OTHER)
    clone = backend.clone(Kind.IMAGE, IMAGE, ident("1"))
    (clone.path / "more").write_text("y")
    backend.snapshot(clone, Kind.LAYER, KEY)
    top = backend.clone(Kind.LAYER, KEY, ident("2"))
    (top.path / "proto").write_text("z")

    def relay(fd: int) -> None:
        backend.receive(ident("3"), fd, origin=IMAGE)

    with producing(lambda fd: backend.send(top, fd, origin=IMAGE)) as (read, flow):
        with consuming(relay) as (write, _):
            while chunk := os.read(read, 1 << 16):
                os.write(write, chunk)
        flow.check()
    for name in ("2", "3"):
        backend.destroy(Kind.BUILD, ident(name))
    backend.destroy(Kind.LAYER, KEY)


def run_until(where: str, point: int) -> int:
    """A build in namespaces of its own that is killed at this point; 0 when it came to its end."""
    count = 0

    def killing(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            result = call(*args, **kwargs)
            count += 1
            if count == point:
                # The first process of a PID namespace is deaf to its own signals: we are told to kill.
                os.write(tell, b"x")
                signal.pause()
            return result

        return wrapped

    def job() -> int:
        backend = ZfsBackend(where)
        with open_journal(backend.state, "a test") as journal:
            build(backend, lambda name: journal.dataset(f"{journal.ident}-{name}"))
        return 0

    heard, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(heard)
            for name in CALLS:
                setattr(Zfs, name, killing(getattr(Zfs, name)))
            for name in ("mount", "unmount"):
                setattr(driver, name, killing(getattr(driver, name)))
            os._exit(namespaces.enclose(job))
        finally:
            os._exit(99)
    os.close(tell)
    inner: list[str] = []
    if os.read(heard, 1):
        inner = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(pid, signal.SIGKILL)
    os.close(heard)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    limit = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{child}") for child in inner):
        assert time.monotonic() < limit
        time.sleep(0.01)
    return status


def test_kill_at_every_point(where: str) -> None:
    backend = ZfsBackend(where)
    before = datasets(where)
    status, point = -signal.SIGKILL, 0
    with open_journal(backend.state, "a live build") as journal:
        mine = backend.clone(Kind.IMAGE, IMAGE, journal.dataset(f"{journal.ident}-1"))
        (mine.path / "mine").write_text("mine")
        while status != 0:
            point += 1
            status = run_until(where, point)
            assert status in (0, -signal.SIGKILL), f"point {point}"
            left = heal(backend)
            assert all(item.removed for item in left), (point, left)
            # An image or a layer that was complete may stay: it is whole, and the store knows what to do.
            for kind, ident in ((Kind.LAYER, KEY), (Kind.IMAGE, OTHER)):
                if backend.exists(kind, ident):
                    with backend.tree(kind, ident) as tree:
                        assert os.listdir(tree)
                backend.destroy(kind, ident)
            here = [name for name in datasets(where) if not name.endswith(f"build-{mine.ident}")]
            assert here == before, f"point {point}"
            assert (mine.path / "mine").read_text() == "mine"
        backend.destroy(Kind.BUILD, mine.ident)
    assert point > 25
    assert datasets(where) == before
    ZfsBackend(where)
    assert not [path for path in (backend.state / "mnt").iterdir() if not path.name.startswith("view-")]
    assert not list((backend.state / "journal").iterdir())
