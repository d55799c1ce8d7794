"""What a command is given, and what it may take: arguments of `process.run`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Start(NamedTuple):
    """What a command reads, descriptors that it inherits, the directory that it starts in, its umask (None:
    ours)."""

    stdin: Path = Path(os.devnull)
    fds: tuple[int, ...] = ()
    cwd: Path | None = None
    umask: int | None = None


class Reached(NamedTuple):
    """A limit that a command has reached: its name, and what the command did, after the command's name."""

    limit: str
    text: str


class Limits(NamedTuple):
    """What a command may take: seconds in all, seconds without any output, and bytes of output, of both
    streams together. None: no limit.

    answer: bytes of each stream that the result shall hold, for callers that read it; more is a failure. 0:
    the result holds no output. watch: asked every now and then, and at the end, whether the command has
    reached a limit that somebody else keeps.
    """

    total: float | None = None
    idle: float | None = None
    output: int | None = None
    answer: int = 0
    watch: Callable[[], Reached | None] | None = None
