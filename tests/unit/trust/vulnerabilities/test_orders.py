"""Orders of versions: what the specifications say, and what their tools say of many."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import InvalidVersion, Version

from buildstep.trust.vulnerabilities.orders import ORDERS

RISING = {
    "dpkg": ["1.0~~", "1.0~rc1", "1.0", "1.0-1", "1.0-1+b1", "1.0-1+deb12u1", "1.0+dfsg-1", "1.0.1", "1:0.1"],
    "pkgsrc": ["1.0alpha", "1.0beta", "1.0rc1", "1.0", "1.0nb1", "1.0nb12", "1.0a", "1.0.2", "1.1"],
    "apk": [
        "1.0_alpha1", "1.0_beta", "1.0_pre2", "1.0_rc1", "1.0", "1.0-r1", "1.0-r10", "1.0_git20240101",
        "1.0_p1", "1.0_p1-r1", "1.0_p2", "1.0a", "1.0b-r1", "1.0.0.0", "1.0.01", "1.0.1", "1.0.2", "1.0.10", "1.1", "2", "10",
    ],
    "pep440": [
        "1.0.dev1", "1.0a1.dev2", "1.0a1", "1.0b2", "1.0rc1", "1.0", "1.0+local", "1.0+local.7", "1.0+1", "1.0-1",
        "1.0.post2.dev1", "1.0.post2", "1.1", "1.10", "1!0.1",
    ],
    "semver": [
        "0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2",
        "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "v1.0.1-0.20200101000000-abcdef123456", "1.0.1", "1.2", "1.10",
    ],
}  # fmt: skip

SAME = {
    "dpkg": [("0:1.0", "1.0"), ("1.0-0", "1.0"), ("1.00", "1.0")],
    "pkgsrc": [("1.0", "1_0"), ("1.0", "1.0.0"), ("1a", "1.1")],
    "apk": [("1.0-r0", "1.0-r0"), ("1.2.3_p1", "1.2.3_p1")],
    "pep440": [
        ("1.0", "1"),
        ("v1.0", "1.0"),
        ("1.0-1", "1.0.post1"),
        ("1.0c1", "1.0RC1"),
        ("1.0_B-2", "1.0b2"),
    ],
    "semver": [("1.0", "1.0.0"), ("v1.2.3", "1.2.3+build.7"), ("0", "0.0.0")],
}

NONE = {
    "dpkg": ["", "1 0", "a:1", "1_0", "é"],
    "apk": ["", "a", "1.0_wrong", "1.0-1", "1.0-r", "1..0", "1.0-r1-r2", "1.0_", "1.0-r1.2"],
    "pep440": ["", "latest", "1.0-x", "1.0.+x", "2004d"],
    "semver": ["", "latest", "1.0.0-", "1.x", "file:../x", "1.0.0 - 2"],
}


@pytest.mark.parametrize("order", RISING)
def test_versions_come_in_their_order(order: str) -> None:
    compare = ORDERS[order]
    for (left, older), (right, newer) in itertools.product(enumerate(RISING[order]), repeat=2):
        found = compare(older, newer)
        assert (found > 0) - (found < 0) == (left > right) - (left < right), (older, newer)


@pytest.mark.parametrize("order", SAME)
def test_some_versions_are_written_in_two_ways(order: str) -> None:
    for left, right in SAME[order]:
        assert ORDERS[order](left, right) == ORDERS[order](right, left) == 0, (left, right)


@pytest.mark.parametrize(("order", "version"), [(name, text) for name in NONE for text in NONE[name]])
def test_what_is_no_version_has_no_place(order: str, version: str) -> None:
    with pytest.raises(ValueError):
        ORDERS[order](version, "1.0")
    with pytest.raises(ValueError):
        ORDERS[order]("1.0", version)


@pytest.mark.parametrize("order", ORDERS)
@given(st.lists(st.text(alphabet="0129.-+~:_abrcdevpostnbalph!", max_size=12), min_size=3, max_size=3))
def test_an_order_is_one_whatever_it_is_given(order: str, versions: list[str]) -> None:
    compare = ORDERS[order]
    sign = {}
    try:
        for one, other in itertools.product(versions, repeat=2):
            found = compare(one, other)
            sign[one, other] = (found > 0) - (found < 0)
    except ValueError:
        return
    for one, other, third in itertools.permutations(versions, 3):
        assert sign[one, one] == 0
        assert sign[one, other] == -sign[other, one]
        if order != "apk" and sign[one, other] <= 0 and sign[other, third] <= 0:
            # apk's own is none where one of three has a leading zero: 1.1 < 1.10 < 1.010... is compared as text.
            assert sign[one, third] <= 0, versions


@given(st.tuples(*[st.from_regex(r"\A(v?)(\d!)?\d{1,2}(\.\d{1,2}){0,2}([-_.]?(a|b|rc|alpha|c|pre)[-_.]?\d?)?((-\d)|([-_.]?(post|rev|r)\d?))?([-_.]?dev\d?)?(\+[a-z0-9]{1,2}(\.[a-z0-9]{1,2})?)?\Z")] * 2))  # fmt: skip
def test_packaging_orders_pythons_versions_as_we_do(versions: tuple[str, str]) -> None:
    left, right = versions
    try:
        expected = (Version(left) > Version(right)) - (Version(left) < Version(right))
    except InvalidVersion:
        return
    assert ORDERS["pep440"](left, right) == expected
