"""A shared cache that fails in several builds in a row is left alone for a while."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from buildstep.cache.shared_breaker import IN_A_ROW, PAUSE, Breaker

URL = "s3://cache"


def test_it_is_left_alone_after_failures_in_a_row(tmp_path: Path) -> None:
    for _ in range(IN_A_ROW - 1):
        Breaker(tmp_path, URL).failed("refused")
        assert Breaker(tmp_path, URL).reason() == ""
    Breaker(tmp_path, URL).failed("refused")
    assert "failed in 3 builds in a row; it is asked again in 60 min" in Breaker(tmp_path, URL).reason()
    assert Breaker(tmp_path, "s3://other").reason() == ""


def test_one_build_in_which_it_worked_is_a_new_beginning(tmp_path: Path) -> None:
    for _ in range(IN_A_ROW - 1):
        Breaker(tmp_path, URL).failed("refused")
    Breaker(tmp_path, URL).worked()
    Breaker(tmp_path, URL).failed("refused")
    assert Breaker(tmp_path, URL).reason() == ""


def test_it_is_asked_again_after_an_hour_and_when_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(IN_A_ROW):
        Breaker(tmp_path, URL).failed("refused")
    now = time.time()
    for later in (PAUSE + 1, -PAUSE):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        assert Breaker(tmp_path, URL).reason() == ""


def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    Breaker(tmp_path, URL).failed("refused")
    (path,) = (tmp_path / "shared").iterdir()
    path.write_bytes(b"{}")
    assert Breaker(tmp_path, URL).reason() == ""
    path.unlink()
    path.mkdir()
    Breaker(tmp_path, URL).failed("cannot be written, and is no error")
