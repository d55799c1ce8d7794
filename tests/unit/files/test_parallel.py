"""Calls in threads: their order, their errors, and calls that wait while nobody wants them any more."""

from __future__ import annotations

import threading
import time

import pytest

from buildstep.files.parallel import parallel


@pytest.mark.parametrize("at_once", [1, 4])
def test_results_come_in_the_order_of_their_values(at_once: int) -> None:
    def slow(value: int) -> int:
        time.sleep(0.001 * (5 - value))
        return 2 * value

    assert list(parallel(slow, range(5), at_once)) == [0, 2, 4, 6, 8]


def test_calls_that_wait_are_interrupted_by_an_error() -> None:
    ended = threading.Event()

    def wait(value: int) -> None:
        if value == 0:
            raise KeyError(value)
        assert ended.wait(10)

    begin = time.monotonic()
    with pytest.raises(KeyError):
        list(parallel(wait, range(3), 3, interrupt=ended.set))
    assert time.monotonic() - begin < 5
