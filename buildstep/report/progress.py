"""How far jobs are, for people: bars on a terminal, in a log a line each at a fixed pace."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from buildstep.events import Gauge
from buildstep.system import standard_streams
from buildstep.system.text import printable, size_text

if TYPE_CHECKING:
    from buildstep.report.bars import Bars

Advance = Callable[[int, int], None]
"""Is told of files and bytes that are done since the last call; from any thread, as often as one likes."""

EVERY = 10.0
"""Seconds between two lines of a job where no terminal is."""

_FILE = 50_000
"""Bytes whose reading takes as long as opening a file does."""

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
    """Show on standard error how far a job is, while the block runs. title: such as "put"; files, size: how
    many there are to do, and their bytes. For commands that have no bus."""
    if quiet or standard_streams.closed(standard_streams.STDERR):
        yield silent
        return
    gauge = Gauge(title, size, files=files)
    shown = bars_for(sys.stderr)
    pace = Pace(_tell)
    with contextlib.ExitStack() as stack:
        if shown is not None:
            stack.enter_context(shown)
            shown.begin(gauge)
        else:
            stack.callback(pace.close)
            stack.callback(pace.end, gauge)
            pace.begin(gauge)
        yield lambda files, size: gauge.advance(size, files)


def _tell(text: str) -> None:
    with standard_streams.telling():
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def live(stream: Any) -> bool:
    """Say whether a stream is a terminal on which lines can be changed."""
    return bool(stream.isatty()) and os.environ.get("TERM", "") not in ("dumb", "unknown")


def bars_for(stream: Any) -> Bars | None:
    """Return bars for standard error if it is such a terminal and rich is installed, else None."""
    if not live(stream):
        return None
    try:
        from buildstep.report.bars import Bars
    except ImportError:
        return None
    return Bars()


# -- lines ------------------------------------------------------------------------------------------------


def words(gauge: Gauge) -> str:
    """Return a line such as `put: 1,200 of 90,000 files, 3.1 MiB of 1.2 GiB, 41%, 120 MiB/s, 9 s left`."""
    now, seconds = gauge.reading(), max(0.001, gauge.seconds)
    facts = []
    if gauge.files:
        facts.append(f"{now.files:,} of {gauge.files:,} files")
    if gauge.unit == "bytes":
        facts.append(size_text(now.done) + (f" of {size_text(gauge.total)}" if gauge.total else ""))
    part = _part(gauge, now.done, now.files)
    if part is not None:
        facts.append(f"{part:.0%}")
    if gauge.unit == "bytes":
        facts.append(f"{size_text(int(now.done / seconds))}/s")
    if part is not None and 0 < part < 1:
        facts.append(f"{_time(seconds / part - seconds)} left")
    if now.text:
        facts.append(printable(now.text))
    return f"{printable(gauge.title)}: {', '.join(facts)}"


def _ended(gauge: Gauge) -> str:
    """Return the last line of a job of which lines were shown."""
    now = gauge.reading()
    size = f"{size_text(now.done)} " if gauge.unit == "bytes" else ""
    return f"{printable(gauge.title)}: {size}in {_time(gauge.seconds)}"


def _part(gauge: Gauge, done: int, files: int) -> float | None:
    """Return how much is done, from 0 to 1; None where it is not known how much there is."""
    whole = gauge.total + gauge.files * _FILE
    return min(1.0, (done + files * _FILE) / whole) if whole else None


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else (f"{minutes} min {rest} s" if minutes else f"{rest} s")
    )


class Pace:
    """Says how far the open jobs are, each in a line, at a fixed pace; nothing of those that are soon over.

    say: takes a line; an OSError of it ends the telling, the next event meets it too.
    """

    def __init__(self, say: Callable[[str], None], *, every: float = EVERY) -> None:
        self._say, self._every = say, every
        self._open: dict[Gauge, bool] = {}
        self._stop: threading.Event | None = None
        self._lock = threading.Lock()

    def begin(self, gauge: Gauge) -> None:
        """Tell of a job from now on."""
        with self._lock:
            self._open[gauge] = False
            if self._stop is None:
                self._stop = threading.Event()
                start(self._tick, self._stop)

    def end(self, gauge: Gauge) -> None:
        """Tell of it no more; say how long it took if anything was said of it."""
        with self._lock:
            told = self._open.pop(gauge, False)
        if told:
            self._say(_ended(gauge))

    def close(self) -> None:
        """Tell of nothing any more."""
        with self._lock:
            self._open.clear()
            if self._stop is not None:
                self._stop.set()

    def _tick(self, stop: threading.Event) -> None:
        while not stop.wait(self._every):
            with self._lock:
                due = [gauge for gauge in self._open if gauge.seconds >= self._every / 2]
                for gauge in due:
                    self._open[gauge] = True
            for gauge in due:
                try:
                    self._say(words(gauge))
                except OSError:
                    return


def start(target: Callable[..., None], *args: object) -> threading.Thread:
    """Start a thread that ends with the process. A signal that raises inside of start() would leave Python
    with a thread it half knows."""
    thread = threading.Thread(target=target, args=args, name="view", daemon=True)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return thread
