"""Fixtures for the tests of services."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.services.calls import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
