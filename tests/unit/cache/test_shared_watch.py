"""A fetch is given up as soon as the rest would take longer than to make the thing, and not before."""

from __future__ import annotations

import threading
import time

import pytest

from buildstep.cache import shared
from buildstep.cache.shared import Hit


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_PATIENCE", 0.1), ("_FIRST_PIECE", 0.4), ("_TICK", 0.01)):
        monkeypatch.setattr(shared, name, seconds)


def watched(came: int, cost: float, seconds: float) -> bool:
    """Whether it is given up, where so much of 1000 bytes came at once and nothing after that."""
    file, stopped = shared._Came(1000), threading.Event()
    thread = threading.Thread(target=file.watch, args=(stopped, cost))
    file.add(came)
    thread.start()
    time.sleep(seconds)
    file.done.set()
    thread.join()
    return stopped.is_set()


def test_what_comes_quickly_enough_is_waited_for() -> None:
    assert not watched(500, cost=10.0, seconds=0.3)


def test_what_would_take_longer_than_to_make_it_is_not() -> None:
    assert watched(110, cost=0.5, seconds=0.4)


def test_the_first_piece_may_be_late() -> None:
    """Eight large pieces side by side: at 100 Mbit/s the first is there after two seconds."""
    for little in (0, 20):
        assert not watched(little, cost=10.0, seconds=0.25)
    assert watched(0, cost=10.0, seconds=0.6)


def test_a_hit_says_what_it_saved() -> None:
    assert str(Hit(size=65536 << 10, seconds=1.04, cost=12.0)) == "shared (64.0 MiB, 1.0 s, saves 11 s)"
    assert Hit(size=1, seconds=3.0, cost=2.0).saved == 0
