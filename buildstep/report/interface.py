"""What a report format is: the value of a row of REPORTS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from buildstep.report.record import BuildRecord


@dataclass(frozen=True, slots=True)
class Report:
    """A report format. ending: of the files that get it by default; render: writes a report of these builds,
    oldest first, to a binary stream."""

    ending: str
    render: Callable[[Sequence[BuildRecord], IO[bytes]], None]
