"""From flags, m.json and environment to a checked spec: precedence, faults, schema, round trip."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from buildstep.spec.fields import (
    BuildSpec,
)
from buildstep.spec.load import summary
from buildstep.spec.settings import SETTINGS
from tests.unit.specdata import BAD_SETTINGS, GIVEN, GOOD, Load, faults, with_build

# What comes out.


def test_defaults(build: Load, tmp_path: Path) -> None:
    spec = build()
    assert spec == BuildSpec(
        name="hello",
        version="1.0.0",
        source="inline manifest",
        manifest={"name": "hello", "version": "1.0.0"},
        origin_of={name: "file" if name in ("image", "proto") else "default" for name in SETTINGS},
        image="scratch",
        proto=tmp_path / "proto",
        image_prefix="hello",
        output_dir=tmp_path / "bits" / "hello",
    )
    assert (spec.formats, spec.order, spec.installer) == (("oci",), "proto-first", "auto")
    assert (spec.owner, spec.cache, spec.network) == ({"*": "root:root"}, True, True)
    assert (spec.timeouts.command, spec.timeouts.idle) == (3600, 900)
    assert spec.basename == "hello-1.0.0"


def test_every_setting_has_a_row() -> None:
    elsewhere = {"proto", "output_dir", "source_date_epoch", "shared_cache", "cache_required", "cache_trust"}
    elsewhere |= {"sbom", "provenance", "sign_key", "base_policy"}  # test_trust.py
    assert GIVEN.keys() == SETTINGS.keys() - elsewhere
    own = {
        "name",
        "version",
        "source",
        "manifest",
        "origin_of",
        "keep_clone",
        "proof",
        "sharing",
        "lock",
        "lock_problem",
        "package_files",
    }
    assert {item.name for item in dataclasses.fields(BuildSpec)} == SETTINGS.keys() | own
    assert len({setting.env for setting in SETTINGS.values()}) == len(SETTINGS)


@pytest.mark.parametrize("name", GIVEN)
def test_flag_wins_over_file_over_environment_over_default(name: str, build: Load) -> None:
    flag, file, variable, from_flag, from_file, from_environment = GIVEN[name]
    document = with_build(source_repo="r") if name == "motd" else copy.deepcopy(GOOD)
    environ = {SETTINGS[name].env: variable}
    document["build"].pop(name, None)
    both = document | {"build": document["build"] | {name: file}}

    by_flag = build(both, flags={name: flag}, environ=environ)
    assert (getattr(by_flag, name), by_flag.origin_of[name]) == (from_flag, "flag")
    by_file = build(both, flags={name: None}, environ=environ)
    assert (getattr(by_file, name), by_file.origin_of[name]) == (from_file, "file")
    by_variable = build(document, environ=environ)
    assert (getattr(by_variable, name), by_variable.origin_of[name]) == (from_environment, "environment")
    if name != "image":
        untold = build(document, environ={SETTINGS[name].env: ""})  # make exports what it does not know
        assert untold.origin_of[name] == "default"
    if name == "owner":
        assert list(by_file.owner) == ["srv/**", "*"], "the default is tried last"


def test_a_whole_number_is_an_int_however_it_was_written(build: Load) -> None:
    assert type(build(with_build(timeouts={"command": 5.0})).timeouts.command) is int


def test_a_false_flag_wins_over_a_true_file(build: Load) -> None:
    assert build(with_build(pkg_audit=True), flags={"pkg_audit": False}).pkg_audit is False


def test_proto_is_a_positional_argument_or_a_flag(build: Load, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert build(flags={"proto": "other"}).proto == tmp_path / "other"
    assert build(flags={"dir": "other", "proto": None}).proto == tmp_path / "other"
    assert build(flags={"dir": "./other/", "proto": tmp_path / "other"}).proto == tmp_path / "other"
    assert build(GOOD, environ={"BUILDSTEP_PROTO": "other"}).proto == tmp_path / "proto"
    assert faults(build, flags={"dir": "other", "proto": "proto"}).keys() == {"PROTO"}


def test_output_dir_is_taken_as_given_and_is_bits_name_otherwise(build: Load, tmp_path: Path) -> None:
    assert build(flags={"output_dir": "out"}).output_dir == tmp_path / "out"
    assert build(with_build(output_dir="/abs/out")).output_dir == Path("/abs/out")
    assert build(flags={"image_prefix": "hello-zfs"}).output_dir == tmp_path / "bits" / "hello"
    (tmp_path / "file").touch()
    assert faults(build, flags={"output_dir": "file"}).keys() == {"--output-dir"}


def test_a_name_cannot_lead_out_of_the_output_directory(build: Load, tmp_path: Path) -> None:
    spec = build(GOOD | {"name": "../../etc"}, flags={"image_prefix": "safe"})
    assert (spec.name, spec.output_dir) == ("../../etc", tmp_path / "bits" / "safe")


# What is refused.


def test_d13_all_faults_are_reported_before_anything(build: Load) -> None:
    document = {
        "name": "he:llo",
        "version": "1/0",
        "nmae": "x",
        "state": "active",
        "build": {"image": "-x", "proto": "none", "pakages": [], "packages": ["ok", "", "-y"], "motd": True},
    }
    found = faults(build, document, flags={"order": "first"}, environ={"BUILDSTEP_CACHE": "maybe"})
    assert found.keys() == {
        *("$.name", "$.version", "$.nmae", "$.state", "$.build.image", "$.build.proto", "$.build.pakages"),
        *("$.build.packages[1]", "$.build.packages[2]", "$.build.motd", "--order", "BUILDSTEP_CACHE"),
    }
    assert 'did you mean "packages"?' in found["$.build.pakages"]
    assert 'did you mean "name"?' in found["$.nmae"]


def test_d13_image_and_proto_are_asked_for(build: Load, tmp_path: Path) -> None:
    assert faults(build, {"name": "a", "version": "1"}).keys() == {"--image"}, "proto is there"
    (tmp_path / "proto").rename(tmp_path / "elsewhere")
    found = faults(build, {"name": "a", "version": "1"})
    assert found.keys() == {"--image", "--dir"}
    assert "BUILDSTEP_IMAGE" in found["--image"]


def test_a_misplaced_setting_is_told_its_place(build: Load) -> None:
    found = faults(build, GOOD | {"packages": ["a"], "biuld": {}})
    assert "$.build.packages" in found["$.packages"]
    assert 'did you mean "build"?' in found["$.biuld"]


def test_d3_a_proto_directory_that_is_not_there_is_refused(build: Load, tmp_path: Path) -> None:
    assert "does not exist" in faults(build, flags={"proto": "nowhere"})["PROTO"]
    (tmp_path / "file").touch()
    assert "is not a directory" in faults(build, flags={"dir": "file"})["--dir"]
    told = faults(build, flags={"dir": "x" * 5000})["--dir"]
    assert "cannot be looked at: File name too long" in told
    assert len(told) < 300


@pytest.mark.parametrize("bad", ["", "-y", "--root=/", "a b", "a;b", "$(id)", "a\nb", "caf\u00e9", "a%s"])
def test_d17_bad_packages_are_named(bad: str, build: Load) -> None:
    found = faults(build, flags={"packages": ["good", bad]})
    assert found.keys() == {"--packages[1]"}
    assert json.dumps(bad)[1:-1] in found["--packages[1]"]
    assert faults(build, with_build(packages=[bad])).keys() == {"$.build.packages[0]"}


@pytest.mark.parametrize("text", ["a,,b", ",a", "a,"])
def test_d17_an_empty_entry_of_a_list_is_a_fault(text: str, build: Load) -> None:
    index = text.split(",").index("")
    assert faults(build, flags={"packages": text}).keys() == {f"--packages[{index}]"}


@pytest.mark.parametrize("good", ["nginx-light", "g++-12", "a=1.2-3~bpo+1", "lib:amd64", "pkg/bookworm", "."])
def test_packages_that_are_none_of_our_business_pass(good: str, build: Load) -> None:
    assert build(flags={"packages": good}).packages == (good,)


@pytest.mark.parametrize("bad", ["a/b", "-a", ".a", "..", "a\n", "a\0", "\ud800", ""])
def test_d9_d17_bad_image_prefix_is_refused(bad: str, build: Load) -> None:
    assert faults(build, flags={"image_prefix": bad}).keys() == {"--image-prefix"}


@pytest.mark.parametrize(("name", "version", "where"), [
    ("a", "1/0", "$.version"),
    ("a/b", "1", "$.name"),
    ("..", "1", "$.name"),
    ("-rf", "1", "$.name"),
    ("a" * 200, "1", "$.version"),
])  # fmt: skip
def test_d9_names_that_no_file_can_have_are_refused(name: str, version: str, where: str, build: Load) -> None:
    assert faults(build, GOOD | {"name": name, "version": version}).keys() == {where}


def test_d15_motd_without_a_source_repository_is_refused(build: Load) -> None:
    assert faults(build, flags={"motd": True}).keys() == {"--motd"}
    assert faults(build, environ={"BUILDSTEP_MOTD": "1"}).keys() == {"BUILDSTEP_MOTD"}
    assert build(flags={"motd": True}, environ={"BUILDSTEP_SOURCE_REPO": "u"}).source_repo == "u"
    assert build(flags={"motd": False}).motd is False


@pytest.mark.parametrize(
    "text", ["null", "[]", "1", '"a"', "{", "", '{"name": "a", "name": "b"}', "[" * 10_000]
)
def test_d13_what_is_not_an_object_is_a_known_error(text: str, build: Load, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    assert faults(build, "m.json")
    assert faults(build, "-", stdin=text)


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_a_build_key_that_is_not_an_object_is_a_fault(value: object, build: Load) -> None:
    assert faults(build, GOOD | {"build": value}).keys() == {"$.build"}


@pytest.mark.parametrize(("name", "value", "where"), BAD_SETTINGS)
def test_a_bad_setting_is_a_fault_in_its_place(name: str, value: object, where: str, build: Load) -> None:
    assert faults(build, with_build(**{name: value})).keys() == {f"$.build.{name}{where}"}


def test_a_bad_file_is_bad_even_where_a_flag_wins(build: Load) -> None:
    assert faults(build, with_build(order="x"), flags={"order": "proto-first"}).keys() == {"$.build.order"}
    shadowed = build(flags={"order": "proto-first"}, environ={"BUILDSTEP_ORDER": "x"})
    assert shadowed.order == "proto-first"


@pytest.mark.parametrize("bad", ["yesterday", "-1", "1.5", "9" * 30, "253402300800"])
def test_a_bad_source_date_epoch_is_a_fault(bad: str, build: Load, tmp_path: Path) -> None:
    assert faults(build, environ={"SOURCE_DATE_EPOCH": bad}).keys() == {"SOURCE_DATE_EPOCH"}
    (tmp_path / "m.json.j2").write_text(json.dumps(GOOD))
    assert faults(build, "m.json.j2", environ={"SOURCE_DATE_EPOCH": bad}).keys() == {"SOURCE_DATE_EPOCH"}
    assert build(environ={"SOURCE_DATE_EPOCH": "0"}).source_date_epoch == 0


def test_an_unknown_flag_is_our_bug(build: Load) -> None:
    with pytest.raises(AssertionError):
        build(flags={"colour": "red"})


# What is told about it.


def test_summary_tells_value_and_origin(build: Load) -> None:
    told = {name: (value, origin) for name, value, origin in summary(build(flags={"packages": "a,b"}))}
    assert told.keys() == SETTINGS.keys()
    assert told["packages"] == ('["a", "b"]', "flag")
    assert told["image"] == ("scratch", "file")
    assert told["cache"] == ("true", "default")


@pytest.mark.parametrize(
    ("platform", "more", "place"),
    [
        ("linux/x86_64", {}, "$.build.platform"),
        ("windows/amd64", {}, "$.build.platform"),
        ("arm64", {}, "$.build.platform"),
        ("linux/arm64", {"oci": {"architecture": "amd64"}}, "$.build.platform"),
    ],
)
def test_a_platform_that_cannot_be_is_refused(
    platform: str, more: dict[str, Any], place: str, build: Load
) -> None:
    found = faults(build, with_build(platform=platform, **more))
    assert found.keys() == {place}


def test_a_platform_and_a_label_that_agree_are_fine(build: Load) -> None:
    spec = build(with_build(platform="linux/arm64", oci={"architecture": "arm64"}))
    assert (spec.platform, spec.architecture, spec.basename) == ("linux/arm64", "arm64", "hello-1.0.0-arm64")
