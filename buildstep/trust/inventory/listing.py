"""Which files that no package owns a document lists one by one."""

from __future__ import annotations

from collections.abc import Mapping

MOST_FILES = 20_000
"""Files without an owner that a document lists one by one: some 12 MB of SPDX."""


def unlisted(counts: Mapping[str, int]) -> frozenset[str]:
    """Return the steps whose files are not listed. counts: of the files that no package owns, by step.

    Of more than MOST_FILES it is the step with the most, and so on: a document of 60 MB is read by nobody,
    and registries refuse it.
    """
    left, found = sum(counts.values()), set()
    for step in sorted(counts, key=lambda step: (-counts[step], step)):
        if left > MOST_FILES:
            found.add(step)
            left -= counts[step]
    return frozenset(found)
