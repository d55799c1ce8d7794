"""dpkg's status file read, and its versions put in order."""

from __future__ import annotations

import pytest

from buildstep.rootfs.installers.dpkg_database import installed_packages, newer
from buildstep.rootfs.interface import Package

STATUS = """\
Package: zlib1g
Status: install ok installed
Architecture: amd64
Source: zlib
Version: 1:1.2.13.dfsg-1

Package: gone
Status: deinstall ok config-files
Version: 1

Package: adduser
Status: hold ok installed
Version: 3.134
Description: add and remove users
 Version: 9 of a dream
"""


def test_installed_packages_are_sorted_by_name() -> None:
    assert installed_packages(STATUS) == [
        Package(name="adduser", version="3.134", source="adduser"),
        Package(name="zlib1g", version="1:1.2.13.dfsg-1", arch="amd64", source="zlib"),
    ]
    assert installed_packages("") == []
    assert installed_packages("Status: install ok installed\n") == []


# Each row is in order, as `dpkg --compare-versions` says (dpkg 1.21).
ORDERS = [
    ("1.0~rc1", "1.0", "1.0-1", "1.0+b1", "1.0.1"),
    ("1.0~~", "1.0~~a", "1.0~", "1.0", "1.0a"),
    ("0:9", "1:0.1", "2:0"),
    ("1.2-1~deb12u1", "1.2-1", "1.2-1+deb12u1", "1.2-1.1", "1.2-2", "1.2-10"),
    ("1.9", "1.10", "1.10a", "1.10+"),
    ("a", "a0b", "b", "z", "+"),
    ("1" * 5000, "2" * 5000, "1" * 5001),
]


@pytest.mark.parametrize("order", ORDERS, ids=range(len(ORDERS)))
def test_versions_are_in_the_order_of_dpkg(order: tuple[str, ...]) -> None:
    for place, version in enumerate(order):
        for other, than in enumerate(order):
            assert newer(version, than) is (place > other), (version[:20], than[:20])


@pytest.mark.parametrize(
    ("one", "other"), [("1.0", "1.0"), ("1.0", "1.00"), ("0:1", "1"), ("1-0", "1"), ("", "")]
)
def test_equal_versions_are_not_newer(one: str, other: str) -> None:
    assert not newer(one, other)
    assert not newer(other, one)
