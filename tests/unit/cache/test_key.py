"""Layer keys: the same for the same inputs, another for any other, and why they differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildstep.cache.key import layer_key
from buildstep.system.text import difference

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
INPUTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)


def test_the_key_is_pinned() -> None:
    """A change empties every cache: it needs a new format number, not an accident."""
    assert layer_key("base", "packages", {"packages": ["a"]}) == "aa46ec9cc938165e84315457a2b141078593ed17"


@given(INPUTS)
def test_the_order_of_inputs_does_not_count(inputs: dict[str, Any]) -> None:
    turned = dict(reversed(list(inputs.items())))
    assert layer_key("b", "s", inputs) == layer_key("b", "s", turned)
    assert difference(inputs, turned) == []


@pytest.mark.parametrize(
    "other",
    [
        ("c", "s", {"a": [1, 2]}),
        ("b", "t", {"a": [1, 2]}),
        ("b", "s", {"a": [2, 1]}),
        ("b", "s", {"a": "12"}),
        ("b", "s", {}),
    ],
)
def test_anything_else_counts(other: tuple[str, str, dict[str, Any]]) -> None:
    assert layer_key(*other) != layer_key("b", "s", {"a": [1, 2]})


def test_parts_do_not_run_together() -> None:
    assert layer_key("ab", "c", {}) != layer_key("a", "bc", {})


@given(INPUTS, INPUTS)
def test_inputs_differ_exactly_when_something_is_told(one: dict[str, Any], two: dict[str, Any]) -> None:
    if layer_key("b", "s", one) == layer_key("b", "s", two):
        assert difference(one, two) == []
    else:
        assert difference(one, two)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"packages": ["a", "b"]}, {"packages": ["b", "c"]}, ["packages: c added", "packages: a removed"]),
        ({"packages": ["a", "b"]}, {"packages": ["b", "a"]}, ["packages: order changed"]),
        ({"packages": ["a"]}, {"packages": ["a", "a"]}, ["packages: a added"]),
        ({"base": "1"}, {"base": "2"}, ["base: 1 -> 2"]),
        ({"o": {"x": 1}}, {"o": {"x": 2}}, ["o.x: 1 -> 2"]),
        ({}, {"new": 1}, ["new: 1 added"]),
        ({"old": 1}, {}, ["old: 1 removed"]),
        ({"u": True}, {"u": False}, ["u: True -> False"]),
    ],
)
def test_what_differs_is_named(old: dict[str, Any], new: dict[str, Any], told: list[str]) -> None:
    assert difference(old, new) == told
