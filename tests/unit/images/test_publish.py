"""What is written down of what was published."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from buildstep.images import publish


def test_a_line_that_does_not_fit_is_not_there_in_part(tmp_path: Path) -> None:
    publish._note_in_state(tmp_path, {"name": "first"})
    path = tmp_path / "published.jsonl"
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            publish._note_in_state(tmp_path, {"name": "second"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    publish._note_in_state(tmp_path, {"name": "third"})
    assert path.read_text().splitlines() == ['{"name": "first"}', '{"name": "third"}']
