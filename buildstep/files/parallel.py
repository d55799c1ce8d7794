"""Call a function for many values at once, in threads: what waits for a network or a disk."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def parallel(
    call: Callable[[A], B],
    values: Iterable[A],
    at_once: int,
    *,
    interrupt: Callable[[], None] | None = None,
) -> Iterator[B]:
    """Yield what the function returns for each value, in their order.

    at_once: calls at the same time; with 1, or a single value, no thread is started. The first error is
    raised where its value would come; calls that have not begun are then left out. interrupt: makes calls
    that wait fail soon; it is called where nobody wants them any more, such as after a signal.
    """
    rest = iter(values)
    first = list(itertools.islice(rest, 2))
    if at_once <= 1 or len(first) < 2:
        yield from map(call, itertools.chain(first, rest))
        return
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(at_once, thread_name_prefix="store") as pool:
        try:
            for value in itertools.chain(first, rest):
                waiting.append(pool.submit(call, value))
                if len(waiting) > 2 * at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            for future in waiting:
                future.cancel()
            if interrupt is not None:
                interrupt()
            raise
