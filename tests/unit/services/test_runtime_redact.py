"""Secrets in what actions print."""

from __future__ import annotations

import base64
import itertools
import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildstep.services.runtime.redact import Lines, Redactor

SECRET = "p4ss'w\\rd/+=\u00e9\n-----KEY-----\nabc\u2028def"


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        repr(SECRET),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        quote(SECRET, safe=""),
        "x'" + SECRET.replace("'", "'\"'\"'") + "'",
        SECRET.encode().hex(),
        *(
            base64.b64encode(b"u" * n + SECRET.encode() + b"!" * m).decode()
            for n in range(4)
            for m in range(3)
        ),
        base64.urlsafe_b64encode(b"user:" + SECRET.encode()).decode(),
    ],
)
def test_a_secret_is_hidden_in_every_form(shown: str) -> None:
    text = Redactor([SECRET]).text(f"before {shown} after")
    assert "***" in text
    assert len(text) < len("before  after") + 14  # of base64 what is beside it may stay
    assert Redactor([SECRET]).found(shown)


def test_the_lines_of_a_secret_are_hidden_one_by_one_and_what_is_part_of_another_too() -> None:
    lines = Lines(Redactor([SECRET, "p4ss", "other"]))
    assert lines.take(f"{SECRET}\nan\nother p4ssword\n".encode()) == [
        "***",
        "***",
        "***",
        "an",
        "*** ***word",
    ]


@given(st.binary(min_size=0, max_size=200), st.lists(st.integers(0, 200), max_size=8))
@settings(max_examples=200, deadline=None)
def test_lines_do_not_depend_on_how_the_output_was_cut(data: bytes, cuts: list[int]) -> None:
    redactor = Redactor(["secret"])
    data = data + b"\nsecret\n" + data
    once, pieces = Lines(redactor), Lines(redactor)
    whole = [*once.take(data), *once.rest()]
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    found = [line for a, b in itertools.pairwise(places) for line in pieces.take(data[a:b])]
    assert [*found, *pieces.rest()] == whole
    assert "***" in whole


@given(st.integers(65_000, 67_000), st.integers(700, 9_000))
@settings(max_examples=25, deadline=None)
def test_a_secret_in_a_very_long_line_is_hidden_wherever_the_line_is_cut(before: int, size: int) -> None:
    data = b"z" * before + b"the-secret" + b"z" * 70_000
    lines = Lines(Redactor(["the-secret"]))
    found = "".join(line for at in range(0, len(data), size) for line in lines.take(data[at : at + size]))
    found += "".join(lines.rest())
    assert found == "z" * before + "***" + "z" * 70_000


def test_a_short_secret_is_found_only_where_it_is_a_whole_value() -> None:
    redactor = Redactor(["ab", "longer"])
    assert redactor.text("cab longer") == "c*** ***"
    assert [redactor.found(value) for value in ("cab", ["x", {"k": "ab"}], {"ab": 1}, "a longer one", 5, None)] == [
        False, True, True, True, False, False,
    ]  # fmt: skip


def test_no_secrets_and_empty_ones_hide_nothing() -> None:
    assert Redactor([]).text("a text") == "a text"
    assert Redactor(["", " "]).text("a text") == "a text"
