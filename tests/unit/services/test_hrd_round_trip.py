"""Whatever value a key gets, the file that is written says it; nothing else in the file is lost."""

from __future__ import annotations

import string
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildstep.errors import Fault, SpecError
from buildstep.services.hrd import Document, Value, parse

SIGNS = st.sampled_from([*"abE \t'\"#,:=\\SQKDNn[]{}@.$()0-/\n", "@ASK", "@ask", "\\ES", "//", "é", "\u2028"])
TEXTS = st.lists(SIGNS, max_size=12).map("".join) | st.text(
    st.characters(
        exclude_categories=["Cs"],
        exclude_characters=[chr(n) for n in range(32) if n not in (9, 10)] + ["\x7f"],
    )
)
MEMBERS = TEXTS | st.integers(0, 10**17) | st.sampled_from([0.5, 2.25, 10.0])
ITEMS = TEXTS | st.lists(MEMBERS, max_size=3)
VALUES = (
    TEXTS | st.lists(ITEMS, max_size=4) | st.dictionaries(TEXTS, ITEMS, max_size=4) | st.binary(max_size=200)
)
KEYS = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=8)

FILE = """\
# a header

name   = 'kept'   # and this
empty =
  indented = 1

env =
    LANG:C,
    # note

data = bqp
=00=01
#BINARYEND#########
last =
    a,
    b,"""


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_values_are_written_and_read_again(values: dict[str, Value]) -> None:
    document = Document.of(values)
    again = parse(str(document))
    assert again == document
    assert list(again.values.items()) == list(values.items())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["name", "empty", "env", "data", "last", "new", "indented"]), st.none() | VALUES
        ),
        max_size=6,
    )
)
def test_changes_leave_all_else_as_it_is(changes: list[tuple[str, Value | None]]) -> None:
    document = parse(FILE.replace("  indented", "indented"))
    expected = document.values
    for key, value in changes:
        if value is not None:
            document.set(key, value)
            expected[key] = value
        elif key in document:
            document.remove(key)
            del expected[key]
    again = parse(str(document))
    assert again.values == expected
    assert list(again) == list(document)
    assert "# a header" in str(document)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        SIGNS | st.sampled_from(["k = ", "\nx = ", "\n    ", "\n\n", "#", "b\n", "#BINARYEND#########\n"]),
        max_size=25,
    ).map("".join)
)
def test_any_file_is_read_or_refused_and_written_to_the_letter(text: str) -> None:
    faults: Sequence[Fault] = ()
    try:
        document = parse(text)
    except SpecError as error:
        faults = error.faults
    assert all(fault.where.count(":") == 2 and fault.message and fault.hint for fault in faults)
    if not faults:
        assert str(document) == text
        assert Document.of(document.values) == document


@pytest.mark.parametrize("bad", ["\x00", "\x1b", "\r", "\x7f", "\ud800"])
@pytest.mark.parametrize("shape", ["text", "list", "dict", "lines"])
def test_what_hrd_cannot_say_is_one_error_and_no_damage(bad: str, shape: str) -> None:
    values: dict[str, Value] = {"text": f"a{bad}", "list": [bad], "dict": {bad: "x"}, "lines": f"a\n{bad}"}
    document = parse(FILE)
    with pytest.raises(SpecError, match="1 fault") as found:
        document.set("name", values[shape])
    assert "cannot be said" in found.value.faults[0].message
    assert str(document) == FILE


@pytest.mark.parametrize("number", [-1, 1e300, 0.1 + 0.2, 10**30, float("nan"), float("inf")])
def test_a_number_that_brackets_cannot_hold_is_an_error(number: float) -> None:
    with pytest.raises(SpecError):
        Document().set("k", [[number]])


@pytest.mark.parametrize(
    "key", ["", " a", "a ", "a=b", "a#b", "@a", "a:b", "a,b", "'a'", "a\nb", "a\x00", '"']
)
def test_what_can_be_no_key_is_refused(key: str) -> None:
    with pytest.raises(SpecError):
        Document().set(key, "x")


def test_layout_and_comments_stay() -> None:
    document = parse(FILE)
    document.set("name", "it's new")
    assert str(document) == FILE.replace("name   = 'kept'   # and this", r"name = 'it\EAs new'  # and this")


def test_line_ends_and_the_mark_of_the_file_stay() -> None:
    document = parse("\ufeffa = 1\r\nb =\r\n    x,\r\n    y,\r\n")
    assert document.values == {"a": "1", "b": ["x", "y"]}
    document.set("a", ["z"])
    assert str(document) == "\ufeffa =\r\n    z,\r\n\r\nb =\r\n    x,\r\n    y,\r\n"
