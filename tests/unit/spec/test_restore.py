"""A spec is the same again after it was in a build record."""

from __future__ import annotations

import dataclasses
import json

import pytest

from buildstep.errors import SpecError, UsageError
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
    for value in ({}, {"name": "a"}, {"name": "a", "owner": {}}):
        with pytest.raises(UsageError, match="cannot read"):
            restore.of_json(value, "record")


def test_settings_of_another_format_are_refused(build: Load) -> None:
    given = json.loads(json.dumps(build().to_json())) | {"format_version": 99}
    with pytest.raises(UsageError, match="the format 99"):
        restore.of_json(given, "record")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_prefix", "../../evil"),
        ("version", "../../evil"),
        ("version", 5),
        ("name", ""),
        ("source_date_epoch", "x"),
        ("owner", 5),
        ("users", [5]),
        ("run", [{"argv": 5}]),
        ("secrets", {"../../x": {"file": "/etc/passwd"}}),
        ("secrets", {"x": {"file": "/etc/passwd", "target": "/../x"}}),
        ("timeouts", 5),
        ("proto", 5),
    ],
)
def test_what_no_manifest_may_have_no_record_may_either(build: Load, name: str, value: object) -> None:
    given = json.loads(json.dumps(build().to_json())) | {name: value}
    with pytest.raises(SpecError) as error:
        restore.of_json(given, "record")
    assert any(f"inputs.spec.{name}" in fault.where for fault in error.value.faults)
