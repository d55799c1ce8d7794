"""References in HRD are put in after values were taken apart, and cannot grow or go round without end."""

from __future__ import annotations

import time

import pytest

from buildstep.errors import SpecError
from buildstep.services.hrd import Document, Value, parse, resolve


def refused(documents: list[Document], message: str, hint: str = "", where: str = "") -> None:
    with pytest.raises(SpecError) as found:
        resolve(documents)
    faults = found.value.faults
    assert any(message in it.message and hint in it.hint and where in it.where for it in faults), faults


def test_a_comma_in_a_value_makes_no_second_item() -> None:
    text = "motto = 'one, two: three'\nl = $(motto), x\nd = a:$(motto)\n$(motto) = key stays\n"
    found = resolve([parse(text)])
    assert found["l"] == ["one, two: three", "x"]
    assert found["d"] == {"a": "one, two: three"}
    assert found["$(motto)"] == "key stays"


def test_what_a_name_stands_for() -> None:
    first = parse("base = /opt\nname = old\npath = $(base)/$(name)/$(system.paths.var)\n")
    second = parse("name = new\nports = 80, 443\nall = $(ports)\nin = k:$(ports), $(name):v\n")
    names: dict[str, Value] = {"system.paths.var": "/var"}
    found = resolve([first, second], names.get)
    assert found["path"] == "/opt/new//var"
    assert found["all"] == ["80", "443"]
    assert found["in"] == {"k": ["80", "443"], "new": "v"}
    assert resolve([first, second], names.get, keys=["all"]) == {"all": ["80", "443"]}


def test_what_is_no_reference_stays() -> None:
    text = "a = $(x-y)\nb = $( c )\nd = $(cat /etc/hostname)\ne = $5 $HOME $()\n"
    assert resolve([parse(text)]) == {
        "a": "$(x-y)",
        "b": "$( c )",
        "d": "$(cat /etc/hostname)",
        "e": "$5 $HOME $()",
    }


def test_questions_stay_and_cannot_be_referred_to() -> None:
    document = parse("port = @ASK type:int\n")
    assert resolve([document]) == document.values
    refused(
        [parse("port = @ASK\nargs = -p $(port)\n", where="f")],
        "port is asked for and has no answer",
        where="f:2:1",
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("addres1 = 1\nx = $(address1)\n", "nothing has the name address1", 'did you mean "addres1"?'),
        ("a = $(b)\nb = $(c)\nc = $(a)\n", "refers to itself: a -> b -> c -> a", "write one"),
        ("a = x$(a)\n", "refers to itself: a -> a", "write one"),
        ("a = $(b.$(c))\nc = d\n", "a reference in the name of a reference", "write $(name)"),
        ("l = 1, 2\nx = a$(l)\n", "$(l) is no text, and stands inside a text", "refer to a text"),
        ("d = a:1\nx = $(d), b\n", "is no text and no plain list", "one of its parts"),
        ("d = a:1\nx =\n    [$(d)],\n", "$(d) is no text", ""),
        ("raw = bqp\n=00\n#BINARYEND#########\nx = $(raw)\n", "raw is binary", "a text"),
        ("a = k\nd = k:1, $(a):2\n", "two keys of this dict become k", "otherwise"),
    ],
)
def test_faults(text: str, message: str, hint: str) -> None:
    refused([parse(text, where="f")], message, hint, "f:")


def test_a_circle_is_told_once() -> None:
    with pytest.raises(SpecError) as found:
        resolve([parse("x = $(b)\nb = $(c)\na = $(b)\nc = $(a)\n")])
    assert [it.message for it in found.value.faults] == ["refers to itself: a -> b -> c -> a"]


@pytest.mark.parametrize("order", [1, -1])
def test_how_far_references_lead_is_bounded_in_any_order(order: int) -> None:
    links = [(f"a{number:02}", f"$(a{number - 1:02})") for number in range(1, 50)]
    fine = [("a00", "end"), *links]
    assert resolve([Document.of(dict(fine[::order]))])["a49"] == "end"
    refused([Document.of(dict([*fine, ("a50", "$(a49)")][::order]))], "more than 50 references lead on")


@pytest.mark.parametrize("item", [False, True])
def test_values_that_grow_end_in_an_error_at_once(item: bool) -> None:
    values: dict[str, Value] = {"a0": "lol" * 10}
    for number in range(1, 40):
        text = f"$(a{number - 1})" * 10
        values[f"a{number}"] = {"k": text} if item and number == 39 else text
    begin = time.monotonic()
    refused([Document.of(values)], "gets longer than 1048576 characters")
    wide: dict[str, Value] = {"a": "x" * 1_000_000, **{f"b{number}": "$(a)" for number in range(100)}}
    refused([Document.of(wide)], "all values together get longer")
    assert time.monotonic() - begin < 5


def test_thousands_of_unknown_names_take_no_minute() -> None:
    begin = time.monotonic()
    refused(
        [Document.of({f"a{number}": f"$(b{number})" for number in range(2000)})], "nothing has the name b0"
    )
    assert time.monotonic() - begin < 10
