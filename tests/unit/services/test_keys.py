"""Keys of services: every form of them, as text and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildstep.errors import SpecError
from buildstep.services.interface import Key
from buildstep.services.keys import key_text, matches, parse_key, parse_path, path_matches, role_of


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("redis", Key(name="redis")),
        ("redis!cache", Key(name="redis", instance="cache")),
        ("!rack4", Key(instance="rack4")),
        ("@ns", Key(role="ns")),
        ("!rack4@node", Key(instance="rack4", role="node")),
        ("corp|redis!main", Key(domain="corp", name="redis", instance="main")),
        ("Corp|Redis!Main", Key(domain="corp", name="redis", instance="main")),
        ("corp|redis!main@redis (1.2)", Key(domain="corp", name="redis", instance="main", role="redis", version="1.2")),
        ("redis (1.2)", Key(name="redis", version="1.2")),
        ("redis (1.2)!main", Key(name="redis", version="1.2", instance="main")),
        ("(1:2.3-4~rc1)", Key(version="1:2.3-4~rc1")),
        (" redis ! main ", Key(name="redis", instance="main")),
        ("corp|", Key(domain="corp")),
        ("ws/corp|web.nginx!main", Key(role="ws", domain="corp", name="web.nginx", instance="main")),
        ("node/node.ssh!a@node", Key(role="node", name="node.ssh", instance="a")),
        ("corp__redis__main", Key(domain="corp", name="redis", instance="main")),
        ("corp__ays_stor__a__b", Key(domain="corp", name="ays_stor", instance="a__b")),
        ("corp__redis", Key(domain="corp", name="redis")),
        ("web-*!?", Key(name="web-*", instance="?")),
    ],
)  # fmt: skip
def test_every_form_of_a_key_is_read(text: str, key: Key) -> None:
    assert parse_key(text) == key
    assert parse_key(key_text(key)) == key


def test_a_domain_and_a_role_leave_nothing_in_the_name() -> None:
    """The old parser left `domain|` in the name, so that such a key was never found."""
    assert parse_key("corp|redis@redis") == Key(domain="corp", name="redis", role="redis")


def test_a_version_after_a_role_is_the_version() -> None:
    """The old parser had it in the role."""
    assert parse_key("redis@redis (1.2)") == Key(name="redis", role="redis", version="1.2")


def test_services_above_are_parted_by_colons() -> None:
    assert parse_path("!rack4@node:corp__redis__main (1:2)") == (
        Key(instance="rack4", role="node"),
        Key(domain="corp", name="redis", instance="main", version="1:2"),
    )
    assert [key.name for key in parse_path("corp__node__a:corp__redis__main")] == ["node", "redis"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "character 1: a key has at least one part"),
        ("redis!", "character 6: no instance after '!'"),
        ("@", "character 1: no role after '@'"),
        ("a|b|c", "character 3: a second domain, 'b' after 'a'"),
        ("a!b!c", "character 5: a second instance, 'c' after 'b'"),
        ("ws/web@db", "character 8: a second role, 'db' after 'ws'"),
        ("web@ws!main", "character 7: the instance comes before the role"),
        ("redis main", "character 7: a second name, 'main' after 'redis'"),
        ("redis!a b", "character 9: the name 'b' comes after the instance"),
        ("redis\n", "character 6: '\\n' cannot be in a key"),
        ("r\N{LATIN SMALL LETTER E WITH ACUTE}dis", "character 1: 'r\N{LATIN SMALL LETTER E WITH ACUTE}dis' is no name"),
        ("-redis", "character 1: '-redis' is no name"),
        ("redis (1 2)", "character 7: '1 2' is no version"),
        ("redis (1", "character 7: '(' cannot be in a key"),
        ("web-*", "character 1: 'web-*' is no name"),
        ("|redis", "character 1: '|' is not expected here"),
        ("a::b", "character 3: a key has at least one part"),
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused_with_its_place(text: str, fault: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_path(text, pattern=False)
    assert any(str(found).startswith(fault) for found in caught.value.faults), caught.value.detail


def test_all_faults_of_a_key_are_told_together() -> None:
    with pytest.raises(SpecError) as caught:
        parse_path("-a!-b:c!", pattern=False)
    assert [fault.where for fault in caught.value.faults] == ["character 1", "character 4", "character 8"]


WORDS = st.from_regex(r"[a-z0-9]([a-z0-9.-]|_(?!_)){0,6}", fullmatch=True)
PART = st.one_of(st.just(""), WORDS)
KEYS = st.builds(Key, domain=PART, name=PART, instance=PART, role=PART, version=PART).filter(
    lambda key: key != Key()
)


@given(st.lists(KEYS, min_size=1, max_size=3))
def test_keys_are_written_as_they_are_read(keys: list[Key]) -> None:
    assert parse_path(":".join(map(key_text, keys)), pattern=False) == tuple(keys)


@given(st.text(alphabet="ab1_!|@/:() .-*", max_size=20))
def test_any_text_is_a_path_or_a_fault(text: str) -> None:
    try:
        path = parse_path(text)
    except SpecError:
        return
    assert parse_path(":".join(map(key_text, path))) == path


def test_a_pattern_matches_by_the_parts_that_it_has() -> None:
    key = Key(domain="corp", name="web.nginx", instance="main", role="web")
    hits = ["web.nginx", "!main", "@web", "corp|", "corp|web.nginx!main@web", "web.*", "!m?in"]
    misses = ["web", "!other", "@nginx", "corp", "other|web.nginx", "(1)"]
    assert [text for text in (*hits, *misses) if matches(parse_key(text), key)] == hits


def test_a_path_matches_the_services_right_above() -> None:
    path = (
        Key(name="site", instance="x"),
        Key(name="node.ssh", instance="a", role="node"),
        Key(name="redis"),
    )
    assert path_matches(parse_path("redis"), path)
    assert path_matches(parse_path("@node:redis"), path)
    assert path_matches(parse_path("site:@node:redis"), path)
    assert not path_matches(parse_path("site:redis"), path)
    assert not path_matches(parse_path("a:site:@node:redis"), path)
    assert not path_matches(parse_path("@node"), path)


def test_a_role_is_what_is_before_the_first_dot() -> None:
    assert [role_of(name) for name in ("node.ssh", "redis", "a.b.c")] == ["node", "redis", "a"]


def test_a_letter_that_becomes_two_when_it_is_small_is_a_fault_like_any_other() -> None:
    for text in ("İ)", "redis!İ\n"):
        with pytest.raises(SpecError) as raised:
            parse_path(text)
        assert "cannot be in a key" in str(raised.value.faults[-2:])


def test_a_part_that_is_too_long_for_a_directory_is_refused() -> None:
    parse_path(f"{'x' * 100}!{'y' * 100}", pattern=False)
    with pytest.raises(SpecError) as raised:
        parse_path(f"{'x' * 101}!main", pattern=False)
    assert "100 characters at most" in raised.value.faults[0].hint
