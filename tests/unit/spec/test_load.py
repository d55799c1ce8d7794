"""From flags, m.json and environment to a checked spec: precedence, faults, schema, round trip."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildstep.errors import SpecError
from buildstep.spec import schema, template
from buildstep.spec.document import read_document
from buildstep.spec.fields import (
    BuildSpec,
    InstallerOptions,
    OciConfig,
    Timeouts,
    from_data,
)
from buildstep.spec.json_schema import json_schema
from buildstep.spec.load import check_document, load, summary
from buildstep.spec.settings import SETTINGS, Choices

CHOICES = Choices(
    installers=("apt", "apk", "pkgsrc"),
    formats=("oci", "tar", "zfs", "btrfs"),
    cleaners=("package-cache", "logs", "tmp"),
)
GOOD: dict[str, Any] = {"name": "hello", "version": "1.0.0", "build": {"image": "scratch", "proto": "proto"}}

Load = Callable[..., BuildSpec]


@pytest.fixture
def build(tmp_path: Path) -> Load:
    """load() in a directory with a proto directory, for a document or text."""
    (tmp_path / "proto").mkdir()

    def call(document: object = GOOD, **more: Any) -> BuildSpec:
        text = document if isinstance(document, str) else json.dumps(document)
        here: dict[str, Any] = {"cwd": tmp_path, "environ": more.pop("environ", {})}
        flags = more.pop("flags", {})
        argument = more.pop("manifest_arg", text)
        return load(read_document(argument, **here, **more), flags=flags, choices=CHOICES, **here)

    return call


def with_build(**more: Any) -> dict[str, Any]:
    return GOOD | {"build": GOOD["build"] | more}


def faults(call: Load, document: object = GOOD, **more: Any) -> dict[str, str]:
    """The faults of a load that has to fail: place to text."""
    with pytest.raises(SpecError) as caught:
        call(document, **more)
    found = {fault.where: str(fault) for fault in caught.value.faults}
    assert len(found) == len(caught.value.faults), "a place is told once"
    return found


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


# One row per setting: flag, file, variable, and what each becomes.
GIVEN: dict[str, tuple[Any, Any, str, Any, Any, Any]] = {
    "image": ("a@1", "b@2", "c@3", "a@1", "b@2", "c@3"),
    "packages": ("a,b", ["c"], "d, e", ("a", "b"), ("c",), ("d", "e")),
    "installer": ("apt", "apk", "pkgsrc", "apt", "apk", "pkgsrc"),
    "installer_options": (
        {"recommends": True},
        {"env": {"A": "b"}},
        '{"mirror": "http://m"}',
        InstallerOptions(recommends=True),
        InstallerOptions(env={"A": "b"}),
        InstallerOptions(mirror="http://m"),
    ),
    "order": (
        "packages-first",
        "packages-first",
        "packages-first",
        "packages-first",
        "packages-first",
        "packages-first",
    ),
    "owner": (
        "keep",
        {"*": "0:0", "srv/**": "www:www"},
        '{"a": "1:1"}',
        {"*": "keep"},
        {"srv/**": "www:www", "*": "0:0"},
        {"a": "1:1", "*": "root:root"},
    ),
    "exclude": (("a,b", "c"), ["- d"], "{e,f}", ("a,b", "c"), ("- d",), ("{e,f}",)),
    "clean": (("logs,tmp",), ["-logs"], "tmp", ("logs", "tmp"), ("-logs",), ("tmp",)),
    "formats": (("oci", "tar"), ["zfs"], '["btrfs"]', ("oci", "tar"), ("zfs",), ("btrfs",)),
    "compression": ("gzip", "zstd", "xz", "gzip", "zstd", "xz"),
    "motd": (True, True, "yes", True, True, True),
    "source_repo": ("u1", "u2", "u3", "u1", "u2", "u3"),
    "upgrade_first": (True, True, "on", True, True, True),
    "pkg_audit": (True, True, "TRUE", True, True, True),
    "image_prefix": ("x", "y", "z-zfs", "x", "y", "z-zfs"),
    "pool": ("zfs:a/b", "dir:/p", "overlay:/q", "zfs:a/b", "dir:/p", "overlay:/q"),
    "cache": (False, False, "0", False, False, False),
    "keep_on_failure": (True, True, "1", True, True, True),
    "shell_on_failure": (True, True, "1", True, True, True),
    "full": (True, True, "1", True, True, True),
    "timeouts": (
        {"idle": 1},
        {"command": 5.0},
        '{"command": 2}',
        Timeouts(idle=1),
        Timeouts(command=5),
        Timeouts(command=2),
    ),
    "oci": (
        {"cmd": ["a"]},
        {"expose": ["80/tcp"], "user": "0:0", "labels": {"a.b": ""}},
        '{"entrypoint": []}',
        OciConfig(cmd=("a",)),
        OciConfig(expose=("80/tcp",), user="0:0", labels={"a.b": ""}),
        OciConfig(entrypoint=()),
    ),
    "index_max_age": (60, 120, "180", 60, 120, 180),
    "network": (False, False, "off", False, False, False),
}


def test_every_setting_has_a_row() -> None:
    assert GIVEN.keys() == SETTINGS.keys() - {"proto", "output_dir", "source_date_epoch"}
    own = {"name", "version", "source", "manifest", "origin_of"}
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


def test_cleaners_are_chosen_or_taken_from_the_default_set(build: Load) -> None:
    default = ("package-cache", "logs")
    assert build().cleaners(default) == default
    assert build(with_build(clean=["tmp"])).cleaners(default) == ("tmp",)
    assert build(with_build(clean=[])).cleaners(default) == ()
    assert build(with_build(clean=["-logs", "-tmp"])).cleaners(default) == ("package-cache",)
    assert faults(build, with_build(clean=["logs", "-tmp"])).keys() == {"$.build.clean"}


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


def test_d13_image_and_proto_are_asked_for(build: Load) -> None:
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
    assert "does not exist" in faults(build, flags={"dir": "x" * 5000})["--dir"]


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


BAD_SETTINGS: list[tuple[str, Any, str]] = [
    ("image", "", ""),
    ("image", "a\nb", ""),
    ("installer", "yum", ""),
    ("installer_options", {"recomends": True}, ".recomends"),
    ("installer_options", {"recommends": "yes"}, ".recommends"),
    ("installer_options", {"env": {"1A": ""}}, '.env["1A"]'),
    ("installer_options", {"env": {"A": 1}}, ".env.A"),
    ("order", "random", ""),
    ("owner", "root", ""),
    ("owner", {}, ""),
    ("owner", {"a": "root"}, ".a"),
    ("owner", ["root:root"], ""),
    ("exclude", [""], "[0]"),
    ("clean", ["-lgos"], "[0]"),
    ("formats", [], ""),
    ("formats", ["oci", "oci"], "[1]"),
    ("formats", ["ocl"], "[0]"),
    ("compression", "lzma", ""),
    ("compression", None, ""),
    ("motd", 1, ""),
    ("pool", "/var/lib", ""),
    ("timeouts", {"command": 0}, ".command"),
    ("timeouts", {"idle": 1.5}, ".idle"),
    ("timeouts", {"idle": True}, ".idle"),
    ("oci", {"entrypoint": "sh"}, ".entrypoint"),
    ("oci", {"expose": ["65536"]}, ".expose[0]"),
    ("oci", {"expose": [80]}, ".expose[0]"),
    ("oci", {"workdir": "srv"}, ".workdir"),
    ("oci", {"stop_signal": "TERM"}, ".stop_signal"),
    ("oci", {"env": {"A=B": "c"}}, '.env["A=B"]'),
    ("source_date_epoch", 1, ""),
]


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


@pytest.mark.parametrize("argument", [None, ""])
def test_a_manifest_is_required(argument: str | None, build: Load) -> None:
    assert faults(build, manifest_arg=argument).keys() == {"--manifest"}


def test_an_unknown_flag_is_our_bug(build: Load) -> None:
    with pytest.raises(AssertionError):
        build(flags={"colour": "red"})


# Where a manifest comes from.


def test_a_file_is_found_from_where_the_command_runs(build: Load, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(GOOD | {"$schema": "m.schema.json", "description": "\u00fc"}))
    spec = build("m.json")
    assert (spec.source, spec.manifest["description"]) == ("m.json", "\u00fc")
    assert spec.manifest.keys() == {"name", "version", "description"}, "neither build nor $schema"
    assert build(str(tmp_path / "m.json")).manifest == spec.manifest
    assert "No such file" in faults(build, "none.json")[str(tmp_path / "none.json")]


def test_standard_input(build: Load) -> None:
    assert build("-", stdin=json.dumps(GOOD)).source == "standard input"


GIT = {"branch": "feature/x y", "commit": "c" * 40, "short": "abc1234", "dirty": True, "tag": ""}


def render(build: Load, tmp_path: Path, text: str, **more: Any) -> BuildSpec:
    (tmp_path / "m.json.j2").write_text(text)
    return build("m.json.j2", **more)


def test_a_template_is_given_stamp_git_env_and_defines(build: Load, tmp_path: Path) -> None:
    text = (
        '{"name": "{{ name }}", "version": "{{ stamp }}", "tags": {"c": "{{ git.commit }}",'
        ' "u": {{ env.WHO | tojson }}}, "build": {"image": "{{ image | default("scratch") }}", "proto": "proto"}}'
    )
    spec = render(
        build,
        tmp_path,
        text,
        git=lambda _: GIT,
        defines={"name": "n"},
        environ={"WHO": 'a "b"', "SOURCE_DATE_EPOCH": "86399"},
    )
    # A branch may have a slash in it, a version in a file name may not (D9).
    assert spec.version == "feature-x-y-19700101T235959Z-gabc1234-dirty"
    assert spec.manifest["tags"] == {"c": "c" * 40, "u": 'a "b"'}
    assert (spec.name, spec.image) == ("n", "scratch")


def test_git_is_asked_only_by_templates_that_use_it(build: Load, tmp_path: Path) -> None:
    asked = []

    def git(_folder: Path) -> Mapping[str, object]:
        asked.append(1)
        return GIT

    render(build, tmp_path, json.dumps(GOOD), git=git)
    build(json.dumps(GOOD | {"description": "{{ stamp }}"}), git=git)  # not a template
    render(build, tmp_path, json.dumps(GOOD | {"version": "{{ stamp }}"}), git=git, defines={"stamp": "1"})
    assert asked == []
    render(build, tmp_path, json.dumps(GOOD | {"version": "{{ git.short }}"}), git=git)
    assert asked == [1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{{ env.NOTHING }}", "NOTHING"),
        ("{{ gti.short }}", "'gti' is undefined"),
        ("{\n{% if %}", "line 2"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_does_not_render_is_a_fault(
    text: str, told: str, build: Load, tmp_path: Path
) -> None:
    assert told in " ".join(faults(lambda *_, **__: render(build, tmp_path, text)).values())


def test_a_stamp_is_in_utc() -> None:
    moment = datetime.fromisoformat("2024-01-01T01:00:00+02:00")
    clean = {"branch": "master", "short": "abc", "dirty": False}
    assert template.stamp(clean, moment) == "master-20231231T230000Z-gabc"


def test_the_time_of_a_stamp_is_now_unless_told(build: Load, tmp_path: Path) -> None:
    now = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    text = json.dumps(GOOD | {"version": "{{ stamp }}"})
    assert "-20300102T030405Z-" in render(build, tmp_path, text, git=lambda _: GIT, now=now).version


# What is told about it.


def test_summary_tells_value_and_origin(build: Load) -> None:
    told = {name: (value, origin) for name, value, origin in summary(build(flags={"packages": "a,b"}))}
    assert told.keys() == SETTINGS.keys()
    assert told["packages"] == ('["a", "b"]', "flag")
    assert told["image"] == ("scratch", "file")
    assert told["cache"] == ("true", "default")


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


# Schema and loader.

SCHEMA = json_schema(CHOICES)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FULL: dict[str, Any] = {
    "$schema": "m.schema.json",
    "v": 2,
    "name": "hello",
    "version": "1.0.0",
    "uuid": "01b2c898-945f-11e1-a523-af1afbe22822",
    "owner": "01b2c898-945f-11e1-a523-af1afbe22822",
    "published_at": "2024-01-01T00:00:00Z",
    "type": "zone-dataset",
    "os": "smartos",
    "description": "d",
    "homepage": "https://example.com",
    "acl": ["01b2c898-945f-11e1-a523-af1afbe22822"],
    "requirements": {
        "networks": [{"name": "net0", "description": "x"}],
        "min_ram": 1,
        "ssh_key": True,
        "min_platform": {"7.0": "20141030T081701Z"},
    },
    "users": [{"name": "root"}],
    "billing_tags": ["a"],
    "traits": {"a": True},
    "tags": {"a": 1},
    "build": {name: row[1] for name, row in GIVEN.items()} | {"proto": "p", "output_dir": "o"},
}


def structural(document: object) -> bool:
    return schema.check(document, SCHEMA, "$") == []


def test_the_schema_is_a_schema_that_says_what_everything_is() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert all(part["description"] for part in SCHEMA["properties"].values())
    properties = SCHEMA["properties"]["build"]["properties"]
    assert properties.keys() == SETTINGS.keys() - {"source_date_epoch"}
    assert all(part["description"] for part in properties.values())
    assert properties["formats"]["default"] == ["oci"]
    for part in properties.values():
        if "default" in part:
            assert schema.check(part["default"], part, "$") == [], "a default is a possible value"


def test_the_full_document_is_good_for_both() -> None:
    assert check_document(FULL, CHOICES) == []
    assert VALIDATOR.is_valid(FULL)
    assert set(SCHEMA["properties"]) - FULL.keys() == {
        *("public", "eula", "generate_passwords", "inherited_directories"),
        *("nic_driver", "disk_driver", "cpu_type", "image_size"),
    }


@pytest.mark.parametrize(("name", "value", "where"), BAD_SETTINGS)
def test_the_schema_refuses_what_the_loader_refuses(name: str, value: object, where: str) -> None:
    document = with_build(**{name: value})
    assert check_document(document, CHOICES)
    assert not VALIDATOR.is_valid(document)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(
        [1.0, 2.0, 1.5, "", "a", "a\n", "-a", "root:root", "oci", "logs", "auto", "keep", "7.0"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "a", "env", "*", "1", "command", "7.0"]), inner, max_size=2
        )
    ),
    max_leaves=5,
)


def places(value: object, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [here, *(place for key, part in inner for place in places(part, (*here, key)))]


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """The full document with some places changed, taken away or added."""
    document = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(document)[1:]))
        target: Any = document
        for key in way:
            target = target[key]
        match draw(st.sampled_from(["change", "remove", "add"])):
            case "remove":
                del target[last]
            case "add" if isinstance(target, dict):
                target[draw(st.sampled_from(["nmae", "motd", "public", "image_size", "state"]))] = draw(JSON)
            case _:
                target[last] = draw(JSON)
    return document


# What a schema does not say: how fields depend on each other, and who sets what.
RELATIONS = ("$.image_size", "$.nic_driver", "$.inherited_directories", "$.requirements.min_ram")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents() | JSON)
def test_schema_and_loader_agree(document: Any) -> None:
    valid = VALIDATOR.is_valid(document)
    assert structural(document) == valid, "our reading of the schema is that of jsonschema"
    found = check_document(document, CHOICES)
    if valid:
        assert all(fault.where in RELATIONS for fault in found)
    else:
        assert found, "what the schema refuses, so does the loader"
