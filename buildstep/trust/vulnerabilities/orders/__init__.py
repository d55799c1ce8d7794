"""Orders of versions: a new one is one row here and one file beside it.

A row is a function of two versions that returns less than 0, 0 or more as the first comes before the
other, is the same, or comes after it. It raises ValueError for a version that has no place in its order.
"""

from __future__ import annotations

from collections.abc import Callable

from buildstep.system.registry import Registry, importing

Compare = Callable[[str, str], int]

ORDERS: Registry[Compare] = Registry(
    "version_orders",
    "order of versions",
    {
        "dpkg": importing("buildstep.trust.vulnerabilities.orders.distributions:dpkg"),
        "pkgsrc": importing("buildstep.trust.vulnerabilities.orders.distributions:pkgsrc"),
        "apk": importing("buildstep.trust.vulnerabilities.orders.apk:compare"),
        "pep440": importing("buildstep.trust.vulnerabilities.orders.pep440:compare"),
        "semver": importing("buildstep.trust.vulnerabilities.orders.semver:compare"),
    },
)


def compare(order: str, left: str, right: str) -> int:
    """Compare two versions by an order. Raises ValueError where there is no such order here, or no place in
    it."""
    found = ORDERS.find(order)
    if found is None:
        raise ValueError(f"the order {order!r} of versions is not known here")
    return found(left, right)
