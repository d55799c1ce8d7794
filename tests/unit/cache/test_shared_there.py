"""What a shared cache is known to have counts for an hour, for one address and scope."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from buildstep.cache import shared_there

ONE, TWO = ("base", "a" * 64), ("layer", "b" * 64)


def test_what_was_noted_is_known(tmp_path: Path) -> None:
    assert shared_there.known(tmp_path, "s3://a", "main") == set()
    for wanted in (ONE, TWO, ONE):
        shared_there.note(tmp_path, "s3://a", "main", wanted)
    assert shared_there.known(tmp_path, "s3://a", "main") == {ONE, TWO}
    assert shared_there.known(tmp_path, "s3://a", "branch/x") == set()
    assert shared_there.known(tmp_path, "s3://b", "main") == set()


def test_it_counts_for_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_there.note(tmp_path, "s3://a", "main", ONE)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    assert shared_there.known(tmp_path, "s3://a", "main") == set()


def test_a_damaged_file_says_nothing(tmp_path: Path) -> None:
    shared_there.note(tmp_path, "s3://a", "main", ONE)
    (path,) = (tmp_path / "shared").iterdir()
    path.write_bytes(b"\xff\n1 2\n")
    assert shared_there.known(tmp_path, "s3://a", "main") == set()
