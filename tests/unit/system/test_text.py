"""Text for people."""

from __future__ import annotations

import pytest

from buildstep.system.text import plural


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1200, "1,200 files")]
)
def test_plural(count: int, text: str) -> None:
    assert plural(count, "file") == text
