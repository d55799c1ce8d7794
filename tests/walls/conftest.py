"""What the suite of walls takes from the integration tests: what the machine has, real roots, namespaces."""

from __future__ import annotations

from tests.integration.conftest import debian, private, require
from tests.walls.rounds import FULL

__all__ = ["debian", "private", "require"]


def pytest_report_header() -> list[str]:
    return [f"walls: {'all rounds' if FULL else 'a sample; make check-walls runs all rounds'}"]
