"""Entries of `build.run` and `build.secrets`: what they become, and every fault between them at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import SpecError
from buildstep.spec import load as specs
from buildstep.spec.document import read_document
from buildstep.spec.fields import BuildSpec, RunCommand
from buildstep.spec.run_rules import target_of
from tests.unit.specdata import CHOICES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "svc/proto").mkdir(parents=True)
    return tmp_path / "svc"


def load(folder: Path, environ: dict[str, str] | None = None, **build: Any) -> BuildSpec:
    import json

    (folder / "m.json").write_text(
        json.dumps(
            {"name": "a", "version": "1", "build": {"image": "scratch", "proto": "svc/proto", **build}}
        )
    )
    cwd, given = folder.parent, environ or {}
    document = read_document("svc/m.json", cwd=cwd, environ=given)
    return specs.load(document, flags={}, environ=given, cwd=cwd, choices=CHOICES)


def test_a_script_of_the_component_is_found_beside_its_manifest(folder: Path) -> None:
    (folder / "deps.py").write_text("#!/usr/bin/python3 -u\nprint(1)\n")
    (folder / "deps").write_text("make\n")
    spec = load(
        folder,
        run=[
            {"name": "a", "file": "deps.py"},
            {"name": "b", "file": "deps"},
            {"name": "c", "file": "deps", "interpreter": ["/bin/bash"]},
        ],
    )
    assert [(row.interpreter, row.script.splitlines()[-1]) for row in spec.run] == [
        (("/usr/bin/python3", "-u"), "print(1)"),
        (("/bin/sh", "-e"), "make"),
        (("/bin/bash",), "make"),
    ]


def test_secrets_have_places_by_their_names(folder: Path) -> None:
    (folder / "rc").write_text("x")
    spec = load(
        folder,
        {"TOKEN": "t"},
        secrets={"npmrc": {"file": "rc"}, "key": {"env": "TOKEN"}},
        run=[{"name": "a", "argv": ["a"], "secrets": ["npmrc", "key"]}],
        installer_options={"secrets": ["key"]},
    )
    assert spec.secrets["npmrc"].file == str(folder / "rc")
    assert spec.run[0].secrets == ("npmrc", "key")
    assert [target_of(name, spec.secrets[name].target) for name in spec.secrets] == [
        "~/.npmrc", "/run/secrets/key",
    ]  # fmt: skip


def test_every_fault_is_told_at_once_with_its_place(folder: Path) -> None:
    (folder / "empty").write_text("")
    with pytest.raises(SpecError) as caught:
        load(
            folder,
            secrets={
                "gone": {"file": "gone"},
                "unset": {"env": "UNSET"},
                "both": {"file": "m.json", "env": "UNSET"},
                "neither": {},
                "odd": {"file": "m.json", "variable": "A", "target": "/a"},
                "folder": {"file": "proto"},
            },
            run=[
                "true",
                {"name": "a", "argv": ["a"], "script": "b"},
                {"name": "a", "argv": ["a"]},
                {"name": "c"},
                {"name": "d", "file": "empty"},
                {"name": "e", "argv": ["e"], "interpreter": ["sh"], "secrets": ["gonee"]},
                {"name": "f", "argv": ["f"], "cache": ["/usr", "/root/a", "/root/a/b", "/proc/x"]},
            ],
            installer_options={"secrets": ["nobody"]},
        )
    assert [fault.where for fault in caught.value.faults] == [
        "$.build.run[1]",
        "$.build.run[2].name",
        "$.build.run[3]",
        "$.build.run[4].file",
        "$.build.run[5].interpreter",
        "$.build.run[5].secrets[0]",
        "$.build.run[6].cache[0]",
        "$.build.run[6].cache[2]",
        "$.build.run[6].cache[3]",
        "$.build.secrets.gone.file",
        "$.build.secrets.unset.env",
        "$.build.secrets.both",
        "$.build.secrets.neither",
        "$.build.secrets.odd.target",
        "$.build.secrets.folder.file",
        "$.build.installer_options.secrets[0]",
    ]
    assert 'did you mean "gone"?' in str([fault.hint for fault in caught.value.faults])


def test_what_a_spec_writes_it_reads_again(folder: Path) -> None:
    row = {"name": "a", "argv": ["a"], "env": {"A": "1"}, "inputs": ["b/*"], "timeout": 5, "network": True}
    spec = load(folder, run=["x", ["y"], row])
    assert tuple(map(RunCommand.of, spec.to_json()["run"])) == spec.run  # type: ignore[call-overload]
