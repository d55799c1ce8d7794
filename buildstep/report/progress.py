"""How far a job over many files is: files, bytes, rate and the time left."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from buildstep.system import standard_streams
from buildstep.system.text import size_text

Advance = Callable[[int, int], None]
"""Is told of files and bytes that are done since the last call; from any thread, as often as one likes."""

EVERY = 10.0
"""Seconds between two lines where no terminal is."""
_PAUSE = 0.1
"""Seconds between two changes of a terminal's line."""


Begin = Callable[[int, int], contextlib.AbstractContextManager[Advance]]
"""Is told how many files and bytes are to be done, and shows how far that is."""


def silent(_files: int, _size: int) -> None:
    """Show nothing."""


@contextlib.contextmanager
def unseen(_files: int, _size: int) -> Iterator[Advance]:
    """Show nothing of a job."""
    yield silent


@contextlib.contextmanager
def progress(title: str, files: int, size: int, *, quiet: bool = False) -> Iterator[Advance]:
    """Show on standard error how far a job is, while the block runs: a live line on a terminal, elsewhere a
    line now and then. title: such as "put"; files, size: how many there are to do, and their bytes."""
    if quiet or standard_streams.closed(standard_streams.STDERR):
        yield silent
        return
    count = Count(title, files, size)
    live = _live_line(count) if sys.stderr.isatty() else None
    stop = threading.Event()
    thread = threading.Thread(target=_show, args=(count, live, stop), name="progress", daemon=True)
    with contextlib.ExitStack() as stack:
        if live is not None:
            stack.enter_context(live)
        thread.start()
        try:
            yield count.advance
        finally:
            stop.set()
            thread.join()


class Count:
    """What is done so far."""

    def __init__(self, title: str, files: int, size: int) -> None:
        self.title = title
        self.files, self.size = files, size
        self.done_files = self.done_size = 0
        self._begin = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, files: int, size: int) -> None:
        """See `Advance`."""
        with self._lock:
            self.done_files += files
            self.done_size += size

    @property
    def part(self) -> float:
        """How much is done, from 0 to 1: opening a file takes as long as reading some 50 kB of it."""
        whole = self.files * 50_000 + self.size
        return min(1.0, (self.done_files * 50_000 + self.done_size) / whole) if whole else 1.0

    def text(self) -> str:
        """Return a line such as `put: 1,200 of 90,000 files, 3.1 MiB of 1.2 GiB, 120 MiB/s, 9 s left`."""
        seconds = max(0.001, time.monotonic() - self._begin)
        rate = size_text(int(self.done_size / seconds))
        left = f", {seconds / self.part - seconds:.0f} s left" if 0 < self.part < 1 else ""
        return (
            f"{self.title}: {self.done_files:,} of {self.files:,} files,"
            f" {size_text(self.done_size)} of {size_text(self.size)}, {rate}/s{left}"
        )


def _live_line(count: Count) -> Any:
    """Return rich's line that can be updated; None where rich is not installed."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(stderr=True, highlight=False).status(count.text())


def _show(count: Count, live: Any, stop: threading.Event) -> None:
    while not stop.wait(EVERY if live is None else _PAUSE):
        if live is not None:
            live.update(count.text())
            continue
        with standard_streams.telling():
            sys.stderr.write(count.text() + "\n")
            sys.stderr.flush()
