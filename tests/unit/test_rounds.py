"""The sample is spread over all rows, and the full suite leaves none out."""

from __future__ import annotations

import pytest

from tests import rounds


def test_a_sample_is_spread_over_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FULL", False)
    assert rounds.chosen(range(100), 4) == [0, 25, 50, 75]
    assert rounds.chosen(range(3), 4) == [0, 1, 2]
    assert rounds.rounds(300, 5) == 5


def test_the_full_suite_runs_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FULL", True)
    assert rounds.chosen(range(100), 4) == list(range(100))
    assert rounds.rounds(300, 5) == 300
