"""The spec as an object and as JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from buildstep.spec.fields import (
    from_data,
)
from tests.unit.specdata import GIVEN, GOOD, Load, faults, with_build


def test_cleaners_are_chosen_or_taken_from_the_default_set(build: Load) -> None:
    default = ("package-cache", "logs")
    assert build().cleaners(default) == default
    assert build(with_build(clean=["tmp"])).cleaners(default) == ("tmp",)
    assert build(with_build(clean=[])).cleaners(default) == ()
    assert build(with_build(clean=["-logs", "-tmp"])).cleaners(default) == ("package-cache",)
    assert faults(build, with_build(clean=["logs", "-tmp"])).keys() == {"$.build.clean"}


@pytest.mark.parametrize("name", ["", *GIVEN])
def test_a_spec_as_json_says_all_of_it(name: str, build: Load) -> None:
    flags = {name: GIVEN[name][0], "source_repo": "r"} if name else {}
    spec = build(GOOD | {"tags": {"a": [1, {"b": None}]}}, flags=flags)
    data = json.loads(json.dumps(spec.to_json()))
    assert (data["format"], data["format_version"]) == ("buildstep.spec", 1)
    fields = data.keys() - {"format", "format_version"}
    assert fields == {field.name for field in dataclasses.fields(spec)}
    again = {name: from_data(name, data[name]) for name in fields}
    assert again == {name: getattr(spec, name) for name in fields}
    assert list(data["owner"]) == list(spec.owner)
    assert type(spec.formats) is tuple


def test_a_spec_cannot_be_changed(build: Load) -> None:
    spec = build()
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.image = "x"  # type: ignore[misc]
