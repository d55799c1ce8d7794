"""Questions in HRD: their tags, and what is an answer."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildstep.errors import Fault, SpecError
from buildstep.services.hrd import Ask, Document, parse
from buildstep.services.hrd.patterns import begins, fault_of


def ask_of(text: str) -> Ask:
    found = parse(f"k = {text}").get("k")
    assert isinstance(found, Ask)
    return found


def test_all_tags() -> None:
    text = r"@ASK type:int descr:'the__port\nof it' default:80 regex:'^\d+$' retry:3 minValue:1 maxValue:65535 name:port"
    assert ask_of(text) == Ask(
        type="int", description="the port\nof it", default="80", pattern=r"^\d+$",
        retry=3, minimum=1, maximum=65535, name="port",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "ask"),
    [
        ("@ASK", Ask()),
        ("@ASK,", Ask()),
        ("@ASK default:''", Ask(default="")),
        ("@ASK default:$(other)", Ask(default="$(other)")),
        ("http- @ASK default:x", Ask(prefix="http- ", default="x")),
        ("@ASK type:dropdown dropdownvals:x,y,'z'", Ask(type="dropdown", choices=("x", "y", "'z'"))),
        ("@ASK type:dropdown dropdownvals:'a b, c'", Ask(type="dropdown", choices=("a b", "c"))),
        ("@ASK regex:[^'\\S]+ TYPE:str", Ask(pattern=r"[^'\S]+")),
    ],
)
def test_shapes(text: str, ask: Ask) -> None:
    assert ask_of(text) == ask


def test_a_block_of_tags() -> None:
    assert ask_of("@ASK,\n    type:bool,\n    descr:'a, b',\n") == Ask(type="bool", description="a, b")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("@ASK dfault:1", "no tag dfault", 'did you mean "default"?'),
        ("@ASK quux", "no tag quux", "it has type"),
        ("@ASK type:integer", "no type integer", "int"),
        ("@ASK type:int type:str", "the tag type is there twice", "leave one out"),
        ("@ASK type:dropdown", "a dropdown without dropdownvals", "add dropdownvals"),
        ("@ASK minValue:x", "minValue is no whole number", "digits"),
        ("@ASK minValue:3 maxValue:2", "minValue 3 is more than maxValue 2", "swap"),
        ("@ASK regex:'(a'", "this is no regular expression", "simpler"),
        ("@ASK regex:'(?=a)b'", "look-around, which is not followed", "simpler"),
        (r"@ASK regex:'(a)\1'", "a back reference", "simpler"),
        ("@ASK regex:'(a{1000}){1000}'", "repeats too much", "simpler"),
        ("{{x}} @ASK", "{{ }} is not run", "write the value"),
    ],
)
def test_faults(text: str, message: str, hint: str) -> None:
    with pytest.raises(SpecError) as found:
        ask_of(text)
    assert any(message in it.message and hint in it.hint for it in found.value.faults), found.value.faults


@pytest.mark.parametrize(
    ("tags", "answer", "value"),
    [
        ("", "any, text: 'it' is", "any, text: 'it' is"),
        ("", "{{1 + 1}}", "{{1 + 1}}"),
        ("type:int", " 80 ", 80),
        ("type:int minValue:-5", "-3", -3),
        ("type:float", "2.5", 2.5),
        ("type:bool", "yes", True),
        ("type:bool", "0", False),
        ("type:list", "a, 'b, c'", ["a", "b, c"]),
        ("type:dict", "a:1\nb:x", {"a": 1, "b": "x"}),
        ("type:multiline", "a\nb", "a\nb"),
        ("type:dropdown dropdownvals:x,y", "y", "y"),
        ("regex:'^[a-z]+'", "abc1", "abc1"),
    ],
)
def test_answers(tags: str, answer: str, value: Any) -> None:
    assert ask_of(f"@ASK {tags}").check(answer) == value


@pytest.mark.parametrize(
    ("tags", "answer", "message"),
    [
        ("type:int", "8o", "is '8o', not a whole number"),
        ("type:int", "", "is empty, not a number"),
        ("type:int minValue:1", "0", "0 is less than 1"),
        ("type:int maxValue:9", "10", "10 is more than 9"),
        ("type:float", "nan", "not a number"),
        ("type:float", "9e999", "not a number"),
        ("type:bool", "maybe", "not true or false"),
        ("type:dict", "a", "no colon"),
        ("type:list", "'a", "not closed"),
        ("type:dropdown dropdownvals:blue,red", "blu", "none of blue, red"),
        ("regex:'^[a-z]+$'", "abc1", "does not match"),
        ("type:password regex:'^.{8}'", "secret", "the answer does not match"),
        ("regex:a", "a" * 1001, "more than 1000 characters"),
    ],
)
def test_what_is_no_answer(tags: str, answer: str, message: str) -> None:
    fault = ask_of(f"@ASK {tags}").check(answer, "port")
    assert isinstance(fault, Fault)
    assert message in fault.message
    assert fault.where == "port"
    assert "secret" not in str(fault)


def test_the_prefix_goes_before_the_answer() -> None:
    assert ask_of("http- @ASK").check("x") == "http- x"


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*b", "(a|aa)+$", "(.*)*x", "(a?){30}a{30}b", "^(([a-z])+.)+[A-Z]$"]
)
def test_a_hostile_pattern_does_not_hang(pattern: str) -> None:
    begin = time.monotonic()
    assert not begins(pattern, "a" * 29 + "!")
    assert not begins(pattern, "a" * 1000 + "!") or pattern == "(a?){30}a{30}b"
    assert time.monotonic() - begin < 5


SHAPES = st.recursive(
    st.sampled_from(
        ["a", "b", ".", "[ab]", "[^a]", r"\d", r"\w", "^", "$", r"\b", "[0-9]", r"\.", "(?:)", r"\S"]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?", "{2,}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(SHAPES, st.text("ab1. \n", max_size=6))
def test_patterns_match_as_those_of_python(pattern: str, text: str) -> None:
    import re

    assert fault_of(pattern) == ""
    assert begins(pattern, text) == (re.match(pattern, text) is not None)
    assert begins(f"(?i){pattern}", text.upper()) == (re.match(f"(?i){pattern}", text.upper()) is not None)


TEXTS = st.text(st.sampled_from("ab \t,:#'\"\\SN\n@$()é"), max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    st.builds(
        Ask, type=st.sampled_from(["str", "int", "list"]), description=TEXTS, default=st.none() | TEXTS,
        pattern=st.sampled_from(["", r"^\S+ \d$", "[#,:]"]), retry=st.none() | st.integers(0, 9), name=TEXTS,
    )
)  # fmt: skip
def test_a_question_is_written_and_read_again(ask: Ask) -> None:
    again = parse(str(Document.of({"k": ask}))).get("k")
    assert again == ask
