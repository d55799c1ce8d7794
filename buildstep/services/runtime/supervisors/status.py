"""What a supervisor is, and what it says of a process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

_SHELLS = frozenset({"sh", "bash", "dash", "ash", "busybox"})


def is_shell(argv: Sequence[str]) -> bool:
    """Return whether a shell runs what is meant: it hands no signals on to that."""
    return os.path.basename(argv[0]) in _SHELLS


class Status(NamedTuple):
    """How a process is. main: its number, 0 if it does not run; pids: of all that belong to it; failed: why
    it ended or was started again, or does not run and will not, in words; restarts: how often it was, since
    it was started; kept: whether anybody would start it again."""

    main: int = 0
    pids: frozenset[int] = frozenset()
    failed: str = ""
    restarts: int = 0
    kept: bool = True


class Supervisor(Protocol):
    """Keeps one process of a service running. Methods raise Failure."""

    def start(self) -> None:
        """Start the process, if it does not run; return once it is started, whether it is ready or not."""
        ...

    def stop(self) -> bool:
        """Ask the process to end, and wait for as long as it may take; return whether it is gone."""
        ...

    def halt(self) -> bool:
        """Kill the process and all that belongs to it; return whether it is gone."""
        ...

    def status(self) -> Status: ...

    def tail(self, lines: int) -> list[str]:
        """Return the last lines that the process printed."""
        ...

    def remove(self) -> None:
        """Remove what was made for the process, which does not run: units, logs."""
        ...
