"""The table of settings fits the object that they fill."""

from __future__ import annotations

import dataclasses

import pytest

from buildstep.spec.fields import BuildSpec
from buildstep.spec.settings import SETTINGS, Setting
from tests.unit.specdata import CHOICES


def test_every_field_that_can_be_given_is_a_setting_and_in_the_same_order() -> None:
    fields = [field.name for field in dataclasses.fields(BuildSpec)]
    before, after = (
        ["name", "version", "source", "manifest", "origin_of"],
        ["proof", "sharing", "lock", "lock_problem", "package_files", "keep_clone"],
    )
    assert fields == [*before, *SETTINGS, *after]


def test_a_variable_is_named_after_its_setting() -> None:
    assert SETTINGS["image_prefix"].env == "BUILDSTEP_IMAGE_PREFIX"
    assert SETTINGS["source_date_epoch"].env == "SOURCE_DATE_EPOCH"
    names = [setting.env for setting in SETTINGS.values()]
    assert len(set(names)) == len(names)


def test_messages_name_the_long_option() -> None:
    assert SETTINGS["image"].option == "--image"
    assert SETTINGS["cache"].option == "--cache"
    assert SETTINGS["timeouts"].option == ""


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_a_row_is_complete(setting: Setting) -> None:
    assert setting.about.endswith(".")
    assert setting.kind in ("string", "array", "object", "boolean", "integer")
    assert setting.in_file or setting.env


def test_what_is_plugged_in_is_part_of_the_rule() -> None:
    assert SETTINGS["installer"].rule_for(CHOICES)["enum"] == ["auto", "apt", "apk", "pkgsrc"]
    assert SETTINGS["formats"].rule_for(CHOICES)["items"] == {"enum": ["oci", "tar", "zfs", "btrfs"]}
    assert "-logs" in SETTINGS["clean"].rule_for(CHOICES)["items"]["enum"]
    assert SETTINGS["motd"].rule_for(CHOICES) == SETTINGS["motd"].rule
