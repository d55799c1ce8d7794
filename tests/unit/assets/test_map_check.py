"""What `map check` finds: patterns that no host can win, ties, crossings; and that it is never wrong about it."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from buildstep.assets import map_check
from buildstep.assets.interface import Mappings
from buildstep.assets.map_check import check, common, contains
from buildstep.assets.patterns import Pattern, Patterns


def of(*texts: str, faults: tuple[str, ...] = ()) -> Mappings:
    return Mappings(services=dict.fromkeys(texts, ("a",)), index="", faults=faults)


def found(*texts: str, compat: bool = False) -> list[tuple[str, str]]:
    return [(one.kind, one.pattern) for one in check(of(*texts), compat=compat)]


@pytest.mark.parametrize(
    ("texts", "expected", "in_compat"),
    [
        (["web-*", "web-prod-*", "web-prod-12", "*"], [], []),
        (["[a", "*"], [("malformed", "[a")], [("malformed", "[a")]),
        (["a/b"], [("never", "a/b")], [("never", "a/b")]),
        ([""], [("never", "")], [("never", "")]),
        (["[z-a]x"], [("never", "[z-a]x")], [("never", "[z-a]x")]),
        (["web-1", "web-1*"], [], [("never", "web-1")]),
        (["web-1", "web-[1]"], [("never", "web-[1]")], [("never", "web-1")]),
        (["web-*", "web-**"], [("never", "web-**")], [("never", "web-*")]),
        (["web-*", "web-?*"], [("never", "web-?*")], []),
        (["web-[ab]", "web-a", "web-b"], [("never", "web-[ab]")], [("never", "web-a"), ("never", "web-b")]),
        (["web-[abc]", "web-a", "web-b"], [], [("never", "web-a"), ("never", "web-b")]),
        (["db-?", "db-*"], [("never", "db-?")], [("never", "db-?")]),
        (["a-*", "*-b"], [("tie", "*-b")], [("tie", "*-b")]),
        (["web-*", "*-b"], [("crossing", "web-*")], [("crossing", "web-*")]),
        (["a?", "?b"], [("tie", "?b")], [("tie", "?b")]),
        (["a*", "b*"], [], []),
    ],
)
@pytest.mark.parametrize("compat", [False, True])
def test_what_is_found(
    texts: list[str], expected: list[tuple[str, str]], in_compat: list[tuple[str, str]], compat: bool
) -> None:
    assert sorted(found(*texts, compat=compat)) == sorted(in_compat if compat else expected)


def test_a_finding_names_the_other_and_a_host() -> None:
    (one,) = check(of("web-*", "*-b"))
    assert (one.other, one.example, one.wrong) == ("*-b", "web--b", False)
    assert one.text == "'web-*' wins 'web--b' against '*-b', which has fewer literal characters: 2, not 4"
    (one,) = check(of("web-1", "web-[1]"))
    assert one.wrong
    assert "'web-1' matches all that it matches" in one.text
    (one,) = check(of(faults=("x: what",)))
    assert (one.kind, str(one), one.wrong) == ("fault", "x: what", True)


def test_it_agrees_with_trying_all_names() -> None:
    rng = random.Random(3)
    names = ["".join(chars) for size in (1, 2, 3, 4, 5) for chars in itertools.product("abz", repeat=size)]
    for _ in range(150):
        texts = [
            "".join(
                rng.choices(["a", "b", "*", "?", "[ab]", "[^a]"], [4, 4, 3, 1, 1, 1], k=rng.randint(1, 4))
            )
            for _ in range(2)
        ]
        one, other = map(Pattern.of, texts)
        in_one, in_other = ({name for name in names if it.matches(name)} for it in (one, other))
        assert contains(one, other) == (in_other <= in_one), texts
        assert (common(one, other) is not None) == bool(in_one & in_other), texts
        winners = {Patterns(dict.fromkeys(texts, ())).resolve(name).winner for name in names}
        findings = check(of(*texts))
        never = {finding.pattern for finding in findings if finding.kind == "never"}
        assert not never & winners, texts
        crossing = in_one & in_other and not in_one <= in_other and not in_other <= in_one
        if crossing and not never:
            assert [finding.kind in ("tie", "crossing") for finding in findings] == [True], texts


def test_thousands_of_mappings_are_checked_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{kind}-{site}-{number}*" for kind in ("web", "db") for site in "abc" for number in range(300)]
    began = time.process_time()
    assert check(of(*texts, "*"))[:1] == []
    assert time.process_time() - began < 20
    assert check(of(*(f"[a-z]*-{number}[0-9]" for number in range(300))))[-1].text.startswith(
        "only the first"
    )
    assert time.process_time() - began < 40
    monkeypatch.setattr(map_check, "MOST_PAIRS", 50)
    last = check(of(*(f"*{number}*" for number in range(20))))[-1]
    assert "only the first 50 pairs" in last.text
    monkeypatch.setattr(map_check, "MOST_CROSSINGS", 7)
    assert len(check(of(*(f"*{number}*" for number in range(20))))) == 8


def test_a_class_before_a_star_is_no_star() -> None:
    assert not contains(Pattern.of("[ab]*"), Pattern.of("c*"))
    assert contains(Pattern.of("c*"), Pattern.of("c[ab]?*"))
