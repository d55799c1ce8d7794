"""A spec is the same again after it was in a build record."""

from __future__ import annotations

import dataclasses
import json

import pytest

from buildstep.errors import UsageError
from buildstep.spec import restore
from buildstep.spec.settings import SETTINGS
from buildstep.spec.trust import Trust
from tests.unit.specdata import GIVEN, Load, with_build


@pytest.mark.parametrize("name", ["", *GIVEN])
@pytest.mark.parametrize("place", ["flag", "file"])
def test_it_is_what_it_was(build: Load, name: str, place: str) -> None:
    given = {name: GIVEN[name][place == "file"], "source_repo": "r"} if name else {}
    if place == "file" and name and not SETTINGS[name].in_file:
        pytest.skip("no file has it")
    spec = build(flags=given) if place == "flag" else build(with_build(**given))
    value = json.loads(json.dumps(spec.to_json()))
    again = restore.of_json(value, "record")
    without = dataclasses.replace(spec, lock=None, sharing=None, proof=Trust(), lock_problem="")
    assert again == without
    assert list(again.owner) == list(spec.owner)


def test_what_is_no_spec_is_refused() -> None:
    for value in ({}, {"name": "a"}, {"name": "a", "owner": 5}, {"users": [5]}):
        with pytest.raises(UsageError, match="cannot read"):
            restore.of_json(value, "record")
