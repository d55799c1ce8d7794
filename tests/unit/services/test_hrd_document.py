"""Typed access to the keys of a document, and groups of keys."""

from __future__ import annotations

from typing import Any

import pytest

from buildstep.errors import SpecError
from buildstep.services.hrd import Document, parse

TEXT = """\
port = 80
ratio = 2.5
minus = -3
on = True
off = 0
word = yes
nothing =
none = None
list = a, b
csv = 'a, b'
dict = n:7, m:007, f:3.10, g:2.5, t:true, e:empty, x:none, neg:-1, text:abc, big:1e5
process.10 = c
process.2 = a:1
processor = no
process.2.note = not one of them
param.port = 5
param.deep.er = 6
q = @ASK default:1
raw = bqp
=00
#BINARYEND#########
"""


@pytest.fixture
def document() -> Document:
    return parse(TEXT, where="f")


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("text", "port", "80"),
        ("integer", "port", 80),
        ("integer", "minus", -3),
        ("integer", "nothing", 0),
        ("integer", "none", 0),
        ("real", "ratio", 2.5),
        ("real", "none", 0.0),
        ("boolean", "on", True),
        ("boolean", "off", False),
        ("boolean", "nothing", False),
        ("items", "list", ["a", "b"]),
        ("items", "csv", ["a", "b"]),
        ("items", "port", ["80"]),
        ("items", "nothing", []),
        ("table", "nothing", {}),
        ("table", "csv2", "default"),
    ],
)
def test_typed_access(document: Document, kind: str, key: str, value: Any) -> None:
    assert getattr(document, kind)(key, "default") == value


def test_values_of_a_dict_are_typed_where_nothing_is_lost(document: Document) -> None:
    assert document.table("dict") == {
        "n": 7, "m": "007", "f": "3.10", "g": 2.5, "t": True, "e": None, "x": None, "neg": -1, "text": "abc", "big": "1e5",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "key", "message"),
    [
        ("integer", "ratio", "ratio is '2.5', not a whole number"),
        ("boolean", "word", "word is 'yes', not true or false"),
        ("real", "word", "not a number"),
        ("text", "list", "list is a list, not a text"),
        ("items", "dict", "dict is a dict, not a list"),
        ("table", "list", "not a dict"),
        ("table", "word", "no colon"),
        ("text", "q", "q is asked for and has no answer"),
        ("text", "raw", "raw is binary"),
        ("text", "prot", "there is no key prot"),
    ],
)
def test_what_is_of_another_type_is_a_fault_at_its_place(
    document: Document, kind: str, key: str, message: str
) -> None:
    with pytest.raises(SpecError) as found:
        getattr(document, kind)(key)
    fault = found.value.faults[0]
    assert message in fault.message
    if key in document:
        assert fault.where == f"f:{document.entries[key].line}:1"
    else:
        assert fault.hint == 'did you mean "port"?'


def test_a_default_may_be_none(document: Document) -> None:
    assert document.get("nowhere", None) is None


def test_numbered_keys_are_those_of_the_very_prefix_in_order(document: Document) -> None:
    assert list(document.numbered("process").items()) == [(2, {"a": "1"}), (10, "c")]
    assert document.numbered("nothing") == {}
    with pytest.raises(SpecError, match="1 fault") as found:
        parse("a.1 = x\na.01 = y\n").numbered("a")
    assert "a.01 has the same number as a.1" in found.value.faults[0].message


def test_keys_under_a_prefix(document: Document) -> None:
    assert document.under("param") == {"port": "5", "deep.er": "6"}
    assert "or" not in document.under("process")


def test_questions(document: Document) -> None:
    assert list(document.asks()) == ["q"]
    document.set("q", "2")
    assert document.asks() == {}


def test_case_of_keys_is_kept() -> None:
    document = parse("Mixed.Case = 1\n")
    document.set("Mixed.Case", "2")
    assert str(document) == "Mixed.Case = 2\n"
