"""Rules for JSON values: what each refuses, and in which words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import SpecError
from buildstep.spec import schema
from buildstep.spec.schema import BOOLEAN, Rule, array, choice, integer, mapping, record, text

DIGITS = text("[0-9]+", say="made of digits", most=3)
POINT = record({"x": integer(0), "label": text()}, required=["x"])


@pytest.mark.parametrize(
    ("value", "rule", "message"),
    [
        (1, text(), "$: must be a string, not integer"),
        (True, integer(), "$: must be an integer, not boolean"),
        (None, {"type": ["string", "object"]}, "$: must be a string or an object, not null"),
        ("", text(), "$: must not be empty"),
        ("1234", DIGITS, "$: is 4 characters long, at most 3 are allowed"),
        ("12\n", DIGITS, '$: "12\\n" is not made of digits'),
        ("rde", choice(["red", "blue"]), '$: "rde" is not one of red, blue (did you mean "red"?)'),
        (1, choice([True]), "$: 1 is not true"),
        (-1, integer(0), "$: -1 is less than 0"),
        (9, integer(0, 5), "$: 9 is more than 5"),
        (math.nan, {"type": "number", "minimum": 0}, "$: nan is less than 0"),
        ([], array(text(), least=1), "$: needs at least 1 of them"),
        (["a", "b"], array(text(), most=1), "$: has 2 entries, at most 1 are allowed"),
        (["a", "a"], array(text(), unique=True), '$[1]: "a" is given twice'),
        (["a", 1], array(text()), "$[1]: must be a string, not integer"),
        ({}, mapping(BOOLEAN, least=1), "$: must not be empty"),
        ({"a": 1}, mapping(BOOLEAN), "$.a: must be a boolean, not integer"),
        ({"a b": True}, mapping(BOOLEAN, keys=DIGITS), '$["a b"]: "a b" is not made of digits'),
        ({"label": "p"}, POINT, "$.x: is required"),
        ({"x": 1, "lable": "p"}, POINT, '$.lable: is not a known key (did you mean "label"?)'),
    ],
)
def test_a_fault_says_where_and_what(value: object, rule: Rule, message: str) -> None:
    assert message in [str(fault) for fault in schema.check(value, rule, "$")]


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("123", DIGITS),
        (2.0, integer(0, 5)),
        (("a", "b"), array(text(), unique=True)),
        ([1, True], array({}, unique=True)),
        ({"x": 1, "more": []}, record({"x": integer()}, extra=True)),
        ([[[object()]]], {}),
    ],
)
def test_what_keeps_a_rule_has_no_fault(value: object, rule: Rule) -> None:
    assert schema.check(value, rule, "$") == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('{"a": 1, "a": 2}', '$: the key "a" is given twice'),
        ("[NaN]", "$: NaN is not a number in JSON"),
        ("[1e999]", "$: 1e999 is not a number in JSON"),
        ("[" * 100 + "]" * 100, "$: is nested too deeply"),
        ("[" * 100_000, "recursion"),
        ("{", "line 1 column 2: "),
    ],
)
def test_json_that_is_refused(source: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        schema.parse(source, "m.json")
    assert message in caught.value.detail


def test_a_file_that_cannot_be_read_is_a_fault_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff")
    for name, message in (("none", "No such file"), ("latin", "utf-8"), (".", "Is a directory")):
        with pytest.raises(SpecError) as caught:
            schema.read_file(str(tmp_path / name))
        assert message in caught.value.detail


@pytest.mark.parametrize("value", [{"a": ["\u00fc", "\ud800"]}, {}, [1.5, None]])
def test_what_is_written_can_be_read(value: Any) -> None:
    written = schema.render(value)
    assert written.endswith("\n")
    assert json.loads(written.encode()) == value
