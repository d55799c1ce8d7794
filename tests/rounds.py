"""How much of a costly suite runs: a sample in `make check`, all of it with BUILDSTEP_FULL=1 (`make check-full`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

FULL = os.environ.get("BUILDSTEP_FULL") == "1"


def rounds(full: int, sample: int) -> int:
    """Return how many rounds a test runs: `full` with BUILDSTEP_FULL=1, else `sample`."""
    return full if FULL else sample


def chosen(rows: Sequence[T], sample: int) -> list[T]:
    """Return the rows to run: all with BUILDSTEP_FULL=1, else `sample` of them, spread over the whole list.

    The same ones each time, so that a failure is there again in the next run.
    """
    if FULL or sample >= len(rows):
        return list(rows)
    return [rows[index * len(rows) // sample] for index in range(sample)]
