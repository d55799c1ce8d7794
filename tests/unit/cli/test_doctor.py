"""What `doctor` makes of an m.json that is wrong, or whose proto directory is not there yet."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from buildstep.cli import doctor
from tests.unit.cli.conftest import GOOD


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("BUILDSTEP_"):
            monkeypatch.delenv(name)
    return tmp_path


def test_a_good_build_has_a_spec_and_its_proto_directory(here: Path) -> None:
    (here / "proto").mkdir()
    spec, proto, found = doctor._spec(json.dumps(GOOD), {"proto": "proto"}, {})
    assert spec is not None
    assert (spec.name, proto, found) == ("hello", here / "proto", [])


@pytest.mark.parametrize(
    ("flags", "level", "what"),
    [({}, "ok", "not named"), ({"proto": "none"}, "warning", "none does not exist")],
)
def test_a_proto_directory_that_is_not_there_is_no_error(
    here: Path, flags: dict[str, object], level: str, what: str
) -> None:
    spec, proto, found = doctor._spec(json.dumps(GOOD), flags, {})
    assert spec is not None
    assert proto is None
    assert [(it.level, it.where) for it in found] == [(level, "proto directory")]
    assert what in found[0].what


def test_each_fault_is_a_finding(here: Path) -> None:
    bad = GOOD | {"stray": 1, "os": "lunix"}
    spec, _, found = doctor._spec(json.dumps(bad), {"proto": os.fspath(here)}, {})
    assert spec is None
    assert [it.where for it in found] == ["inline manifest: $.os", "inline manifest: $.stray"]
    assert {(it.level, it.code) for it in found} == {("error", 2)}


def test_without_an_m_json_any_build_is_looked_at(here: Path) -> None:
    spec, proto, found = doctor._spec(None, {}, {})
    assert spec is not None
    assert (spec.image, proto, found) == ("scratch", None, [])
