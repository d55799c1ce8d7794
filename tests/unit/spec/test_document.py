"""Where an m.json is read from, and what a template is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from buildstep.spec.fields import (
    BuildSpec,
)
from tests.unit.specdata import GOOD, Load, faults


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


def test_values_that_nothing_comes_of_are_told_with_all_other_faults(build: Load, tmp_path: Path) -> None:
    text = (
        '{"name": {{ name | tojson }}, "version": "1"{% if with_tags %}, "tags": {}{% endif %}, "bild": {}}'
    )
    given = {"nmae": "x", "with_tags": "", "colour": "red"}

    def call(*_: object, **more: Any) -> BuildSpec:
        return render(build, tmp_path, text, **more)

    unused = {"-D nmae", "-D colour"}
    found = faults(call, defines=given)
    assert found.keys() == {*unused, "template"}
    assert 'did you mean "name"?' in found["-D nmae"]
    found = faults(call, defines=given | {"name": "x"})
    assert found.keys() == {*unused, "$.bild", "--image"}
    assert faults(build, json.dumps(GOOD | {"bild": {}}), defines=given).keys() == {"-D", "$.bild"}
    (tmp_path / "bad.j2").write_text("{% if %}")
    assert faults(build, manifest_arg="bad.j2", defines=given).keys() == {"line 1"}


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


def test_the_time_of_a_stamp_is_now_unless_told(build: Load, tmp_path: Path) -> None:
    now = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    text = json.dumps(GOOD | {"version": "{{ stamp }}"})
    assert "-20300102T030405Z-" in render(build, tmp_path, text, git=lambda _: GIT, now=now).version


@pytest.mark.parametrize("argument", [None, ""])
def test_a_manifest_is_required(argument: str | None, build: Load) -> None:
    assert faults(build, manifest_arg=argument).keys() == {"--manifest"}


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"description": "a \ud83d b"}, "$.description"),
        ({"build": {"image": "tar:/x\udce4"}}, "$.build.image"),
        ({"build": {"image": "scratch", "exclude": ["a", "\udfff"]}}, "$.build.exclude[1]"),
        ({"build": {"image": "scratch", "owner": {"/\ud800": "0:0"}}}, "$.build.owner"),
    ],
)
def test_half_a_character_is_a_fault(build: Load, more: dict[str, Any], where: str) -> None:
    found = faults(build, GOOD | more)
    assert list(found) == [where]
    assert "which is half of a character" in found[where]
    assert build(GOOD | {"description": "\U0001f600"}).manifest["description"] == "\U0001f600"
