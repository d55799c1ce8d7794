"""Limits: what they allow, and that what cannot be known is not let through."""

from __future__ import annotations

import pytest

from buildstep.errors import ExitCode, GateError
from buildstep.files.compare import Listing, compare
from buildstep.files.compare_gate import Gate, Growth, Verdict, enforce, judge
from buildstep.files.compare_packages import PackageChange
from buildstep.files.compare_privileges import shifts
from buildstep.tree.entry import Entry

NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.mark.parametrize(
    ("text", "old", "most"),
    [
        ("0", 100, 100), ("10", 100, 110), ("1k", 0, 1024), ("1KiB", 0, 1024), ("2MB", 0, 2 << 20),
        ("1G", 5, 5 + (1 << 30)), ("10%", 100, 110), ("2.5%", 1000, 1025), ("0%", 100, 100), ("50%", 0, 0),
    ],
)  # fmt: skip
def test_growth(text: str, old: int, most: int) -> None:
    limit = Growth.parse(text)
    assert limit.allows(old, most)
    assert not limit.allows(old, most + 1)
    assert limit.allows(old, 0)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5M", "5 %", "%", "1e3", "10MM"])
def test_what_is_no_growth(text: str) -> None:
    with pytest.raises(ValueError, match="no growth"):
        Growth.parse(text)


def judged(
    gate: Gate,
    old: Entry | None,
    new: Entry | None,
    *,
    packages: list[PackageChange] | None = None,
    lacks: str = "",
) -> list[bool]:
    lacking = (lacks,) if lacks else ()
    sides = [Listing.of({it.path: it} if it else {}, lacks=lacking) for it in (old, new)]  # type: ignore[arg-type]
    found = compare(*sides)
    return [verdict.ok for verdict in judge(gate, found, shifts(found.changes), packages)]


PLAIN = Entry(b"x", "f", 0o755, 0, 0, 100, "a" * 64)


def test_nothing_is_judged_that_was_not_asked_for() -> None:
    assert judged(Gate(), PLAIN, Entry(b"x", "f", 0o4755, 0, 0, 1 << 40, "b" * 64)) == []


@pytest.mark.parametrize(("mode", "ok"), [(0o755, True), (0o4755, False), (0o2755, False), (0o1755, True)])
def test_new_setuid_and_setgid_programs(mode: int, ok: bool) -> None:
    new = Entry(b"x", "f", mode, 0, 0, 100, "a" * 64)
    assert judged(Gate(setuid=True), PLAIN, new) == [ok]
    assert judged(Gate(setuid=True), None, new) == [ok]
    assert judged(Gate(setuid=True), new, PLAIN) == [True]
    assert judged(Gate(setuid=True), new, new) == [True]
    assert judged(Gate(capabilities=True), PLAIN, new) == [True]


def test_new_capabilities() -> None:
    new = Entry(b"x", "f", 0o755, 0, 0, 100, "a" * 64, xattrs=((b"security.capability", NET_RAW),))
    assert judged(Gate(capabilities=True), PLAIN, new) == [False]
    assert judged(Gate(capabilities=True), new, PLAIN) == [True]
    assert judged(Gate(setuid=True), PLAIN, new) == [True]


def test_removed_packages() -> None:
    gone = PackageChange("x", "", "removed", "1", "")
    other = PackageChange("y", "", "upgraded", "1", "2")
    assert judged(Gate(packages=True), PLAIN, PLAIN, packages=[]) == [True]
    assert judged(Gate(packages=True), PLAIN, PLAIN, packages=[other]) == [True]
    assert judged(Gate(packages=True), PLAIN, PLAIN, packages=[other, gone]) == [False]


def test_what_cannot_be_known_is_not_let_through() -> None:
    assert judged(Gate(packages=True), PLAIN, PLAIN, packages=None) == [False]
    assert judged(Gate(setuid=True), PLAIN, PLAIN, lacks="mode") == [False]
    assert judged(Gate(capabilities=True), PLAIN, PLAIN, lacks="xattrs") == [False]
    assert judged(Gate(setuid=True, capabilities=True), PLAIN, PLAIN, lacks="owner") == [True, True]


def test_all_that_is_exceeded_is_told() -> None:
    enforce([Verdict("max-growth", True, "fine")])
    with pytest.raises(GateError, match="2 limits exceeded") as caught:
        enforce([Verdict("a", False, "one"), Verdict("b", True, "two"), Verdict("c", False, "three")])
    assert caught.value.detail.splitlines() == ["  --a: one", "  --c: three"]
    assert caught.value.exit_code is ExitCode.GATE
