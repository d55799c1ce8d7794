"""The order of pkgsrc's versions."""

from __future__ import annotations

import itertools

import pytest

from buildstep.rootfs.installers.pkgsrc_versions import newer

ORDERED = [
    "",
    "1.2.9",
    "1.3alpha2",
    "1.3beta1",
    "1.3rc1",
    "1.3",
    "1.3nb1",
    "1.3nb12",
    "1.3.1",
    "1.3b",
    "1.10",
    "20240101",
]


def test_each_comes_after_those_before() -> None:
    for old, new in itertools.combinations(ORDERED, 2):
        assert newer(new, old), (old, new)
        assert not old or not newer(old, new), (old, new)


@pytest.mark.parametrize(
    ("left", "right"), [("1.3", "1.3.0"), ("1.2e", "1.2.5"), ("1.0pre1", "1.0rc1"), ("1pl2", "1.2")]
)
def test_these_are_alike(left: str, right: str) -> None:
    assert not newer(left, right)
    assert not newer(right, left)
