"""What the suite of walls takes from the integration tests: what the machine has, real roots, namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import debian, private, require
from tests.rounds import FULL
from tests.walls import scene

__all__ = ["debian", "private", "require"]


def pytest_report_header() -> list[str]:
    return [f"walls: {'all rounds' if FULL else 'a sample; make check-walls runs all rounds'}"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: no part of the sample, runs under make check-walls only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out of a sample what is marked `full`."""
    left_out = [] if FULL else [item for item in items if item.get_closest_marker("full")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def hostile_base() -> Iterator[Path]:
    """The smallest Debian, as a base whose packages come from a port of this machine."""
    with scene.quick_folder() as folder:
        yield scene.hostile_base(folder)
