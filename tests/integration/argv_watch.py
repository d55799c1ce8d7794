"""Looks for words in the command lines of all processes of this machine, as anybody on it can."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path


class Watch:
    """Looks as long as a block lasts. needles: returns the words; seen: command lines that had one; looks: how
    often all were read."""

    def __init__(self, needles: Callable[[], Collection[bytes]]) -> None:
        self.seen: set[bytes] = set()
        self.looks = 0
        self._needles = needles
        self._over = threading.Event()

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    text = path.read_bytes()
                except OSError:
                    continue
                if any(word in text for word in self._needles()):
                    self.seen.add(text)
