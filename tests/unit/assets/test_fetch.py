"""The workers of a pull: how much is under way at once, and what one that dies or fails leaves of the others."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from buildstep.assets.fetch import Job, _Worker
from buildstep.assets.interface import Asset
from buildstep.assets.names import Name
from buildstep.assets.policy import Policy
from buildstep.errors import StoreError
from tests.unit.assets.pulling import MemoryAssets, pulled, simple

MIB = 1 << 20


class Busy(MemoryAssets):
    """A store whose calls take a moment, and fail. most: bytes of large assets, large and small assets that were
    under way at once."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.most: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def open(self, name: Name) -> Iterator[Any]:
        size = self.sizes[name.version]
        what = {"bytes": size, "large": 1} if size >= MIB else {"small": 1}
        with self._lock:
            self._now.update(what)
            for key in self._now:
                self.most[key] = max(self.most[key], self._now[key])
        time.sleep(0.01)
        with self._lock:
            self._now.subtract(what)
        yield self._fail()

    def _fail(self) -> Any:
        raise StoreError("it is only asked for")


def work(tmp_path: Path, sizes: list[int], *, room: int, threads: int = 6) -> Counter[str]:
    named = {str(number): size for number, size in enumerate(sizes)}
    store = Busy(named)
    sent: list[Any] = []
    jobs = [
        Job(int(version), Asset(name=Name("web", version, ".tar.gz"), size=size), tmp_path / version)
        for version, size in named.items()
    ]
    _Worker(store, tmp_path, Policy(), sent.append, room).run(jobs, threads)
    assert sorted(outcome.number for outcome in sent) == list(range(len(sizes)))
    return store.most


def test_large_assets_are_under_way_only_as_far_as_there_is_room(tmp_path: Path) -> None:
    most = work(tmp_path, [10 * MIB] * 3 + [3 * MIB] * 8 + [100] * 30, room=6 * MIB)
    assert most["bytes"] == 10 * MIB  # one that is larger than the room goes alone
    assert most["large"] == 2
    assert most["small"] >= 4  # these wait for nobody


def test_without_a_limit_in_sight_all_threads_are_used(tmp_path: Path) -> None:
    assert work(tmp_path, [2 * MIB] * 12, room=1 << 40)["large"] == 6


def test_d12_a_worker_that_is_killed_is_the_error_of_what_it_had(tmp_path: Path) -> None:
    parent = os.getpid()

    def before(call: str, name: str) -> None:
        if call == "open" and os.getpid() != parent and name == "web-3.tar.gz":
            time.sleep(0.3)  # what is staged by now gets its name
            os.kill(os.getpid(), signal.SIGKILL)

    store = MemoryAssets(before=before)
    for version in range(8):
        store.add(f"web-{version}.tar.gz", simple(str(version)))
    report = pulled(store, tmp_path / "srv")
    failed = report.services["web"].failed
    assert "3" in failed
    assert set(failed.values()) == {"a worker process was killed"}
    assert len(failed) + report.installed == 8
    store.before = lambda _call, _name: None
    assert pulled(store, tmp_path / "srv").failed == []
