"""Patterns of host names: what they match, as Go has it, and which of several wins."""

from __future__ import annotations

import random
import time

import pytest

from buildstep.assets.globs import Malformed, parse
from buildstep.assets.patterns import Pattern, Patterns, matches, resolve
from buildstep.errors import UsageError

GO = [
    ("abc", "abc", True), ("*", "abc", True), ("*c", "abc", True), ("a*", "a", True), ("a*", "abc", True),
    ("a*", "ab/c", False), ("a*/b", "abc/b", True), ("a*/b", "a/c/b", False),
    ("a*b*c*d*e*/f", "axbxcxdxe/f", True), ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
    ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False), ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
    ("a*b?c*x", "abxbbxdbxebxczzx", True), ("a*b?c*x", "abxbbxdbxebxczzy", False),
    ("ab[c]", "abc", True), ("ab[b-d]", "abc", True), ("ab[e-g]", "abc", False), ("ab[^c]", "abc", False),
    ("ab[^b-d]", "abc", False), ("ab[^e-g]", "abc", True), ("a\\*b", "a*b", True), ("a\\*b", "ab", False),
    ("a?b", "a☺b", True), ("a[^a]b", "a☺b", True), ("a???b", "a☺b", False), ("a[^a][^a][^a]b", "a☺b", False),
    ("[a-\u03b6]*", "\u03b1", True), ("*[a-\u03b6]", "A", False), ("a?b", "a/b", False), ("a*b", "a/b", False),
    ("[\\]a]", "]", True), ("[\\-]", "-", True), ("[x\\-]", "x", True), ("[x\\-]", "-", True),
    ("[x\\-]", "z", False), ("[\\-x]", "x", True), ("[\\-x]", "-", True), ("[\\-x]", "a", False),
    ("*x", "xxx", True),
]  # fmt: skip
"""The cases of Go's own test of path.Match (src/path/match_test.go) that have an answer."""

MALFORMED = [
    "[]a]",
    "[-]",
    "[x-]",
    "[-x]",
    "[a-b-c]",
    "[",
    "[^",
    "[^bc",
    "a[",
    "a[\\",
    "a\\",
    "[a-",
    "[a-]",
    "[\\",
]
"""Those that are an error there, and their like."""


@pytest.mark.parametrize(("pattern", "name", "expected"), GO)
def test_what_go_documents(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected
    if "/" not in name:
        found = Patterns({pattern: ()}).matching(name)
        assert [one.text for one in found] == [pattern] * expected, "the index says the same"


@pytest.mark.parametrize("pattern", MALFORMED)
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(Malformed):
        parse(pattern)
    found = Patterns({pattern: ("a",), "*": ("b",)}).resolve("a")
    assert (found.winner, [text for text, _ in found.skipped]) == ("*", [pattern])


def test_a_range_from_the_end_matches_nothing() -> None:
    assert not matches("[z-a]", "m")
    assert matches("[^z-a]", "m")
    assert not matches("[^z-a]", "")


def test_the_index_finds_what_matching_each_finds() -> None:
    rng = random.Random(7)
    letters = "ab-1*?[^]\\"
    for _ in range(300):
        texts = {
            "".join(rng.choices(letters, [4, 3, 2, 2, 3, 1, 1, 1, 1, 1], k=rng.randint(0, 7))): ()
            for _ in range(30)
        }
        patterns = Patterns(dict(texts))
        for _ in range(10):
            host = "".join(rng.choices("ab-1", k=rng.randint(1, 8)))
            expected = {one.text for one in patterns.well_formed() if one.matches(host)}
            assert {one.text for one in patterns.matching(host)} == expected, host
            assert len(patterns.matching(host)) == len(expected)
            assert resolve(texts, host) == patterns.resolve(host), "at a glance nothing is left out"


def test_many_stars_take_no_time() -> None:
    pattern = Pattern.of("*a?" * 20 + "b")
    began = time.process_time()
    assert not pattern.matches("a" * 250)
    assert time.process_time() - began < 0.5


PROD = {"web-prod-*": ("s1", "s2", "s3"), "web-prod-oneoff-*": ("s1", "s4")}
EXACT = PROD | {"web-prod-oneoff-001": ("s5", "s6")}


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize(
    ("services", "host", "winner"),
    [
        (PROD, "web-prod-oneoff-001", "web-prod-oneoff-*"),
        (PROD, "web-prod-7", "web-prod-*"),
        (EXACT, "web-prod-oneoff-001", "web-prod-oneoff-001"),
        ({"*": ("base",)}, "anything.example.org", "*"),
        ({"db-?": ("a",), "db-*": ("b",)}, "db-1", "db-*"),
        (PROD, "db-1", None),
    ],
)
def test_the_examples_of_daybook(
    services: dict[str, tuple[str, ...]], host: str, winner: str | None, compat: bool
) -> None:
    found = resolve(services, host, compat=compat)
    assert found.winner == winner
    assert found.services == (services[winner] if winner else ())
    assert {lost.pattern for lost in found.losers} == {
        text for text in services if matches(text, host) and text != winner
    }


@pytest.mark.parametrize(
    ("texts", "host", "winner", "in_daybook"),
    [
        (["web-1", "web-1*"], "web-1", "web-1", "web-1*"),
        (["web-1", "web-[0123456789]"], "web-1", "web-1", "web-[0123456789]"),
        (["web-*", "*-prod-1"], "web-prod-1", "*-prod-1", "*-prod-1"),
        (["w*-*", "[a-z]eb-?"], "web-1", "[a-z]eb-?", "[a-z]eb-?"),
        (["w*b-*", "web*****"], "web-1", "w*b-*", "web*****"),
        (["web-**", "web-*"], "web-1", "web-*", "web-**"),
        (["web-?", "web-*"], "web-1", "web-*", "web-*"),
        (["web-[0-9]", "web-*"], "web-1", "web-[0-9]", "web-[0-9]"),
    ],
)
def test_d07_a_name_beats_a_wildcard_and_ties_are_decided(
    texts: list[str], host: str, winner: str, in_daybook: str
) -> None:
    for order in (texts, texts[::-1]):
        services = {text: (text[:1],) for text in order}
        assert resolve(services, host).winner == winner
        assert resolve(services, host, compat=True).winner == in_daybook


def test_losers_say_why() -> None:
    texts = ["web-1", "web-[1]", "web-*", "w*-?", "w*-*", "*"]
    found = resolve(dict.fromkeys(texts, ()), "web-1")
    assert (found.winner, [lost.pattern for lost in found.losers]) == (
        texts[0],
        ["web-[1]", "web-*", "w*-*", "w*-?", "*"],
    )
    assert all("wildcards" in lost.reason for lost in found.losers)
    reasons = {lost.pattern: lost.reason for lost in resolve(dict.fromkeys(texts[1:], ()), "web-1").losers}
    assert reasons["web-*"].startswith("is shorter: 5 bytes")
    assert reasons["*"] == "has fewer literal characters: 0, not 4"
    (tie,) = resolve({"db-?": (), "db-*": ()}, "db-1").losers
    assert "tie" in tie.reason
    (tie,) = resolve({"db-?": (), "db-*": ()}, "db-1", compat=True).losers
    assert "tie" in tie.reason


@pytest.mark.parametrize("host", ["", "a/b", " a", "a\n"])
def test_what_no_host_is_called(host: str) -> None:
    with pytest.raises(UsageError, match="no name of a host"):
        resolve({"*": ()}, host)


def test_few_of_ten_thousand_patterns_are_looked_at() -> None:
    services = {f"{kind}-{site}-{number}*": (kind,) for kind in ("web", "db", "app", "mq")
                for site in ("a", "b", "c", "d", "e") for number in range(500)}  # fmt: skip
    services |= {"*": ("base",), "*-e-7": ("odd",)}
    patterns = Patterns(services)
    assert patterns.resolve("web-c-321").winner == "web-c-321*"
    assert patterns.looked_at < 10


@pytest.mark.parametrize("shape", ["*-{}", "*{:05}*", "[a-z]*-{}[0-9]", "web-*-{}*x?", "?{:05}?"])
def test_whatever_they_look_like_few_are_looked_at(shape: str) -> None:
    patterns = Patterns({shape.format(number): () for number in range(10_000)})
    for host in ("web-s01-077.dc1.example.com", "db-07", "a00123b"):
        patterns.resolve(host)
    assert patterns.looked_at < 30
