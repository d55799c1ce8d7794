"""An m.json of several files and profiles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import SpecError
from buildstep.spec.document import Document, read_document
from tests.unit.specdata import Load, faults

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files of JSON: write(**{"a": {...}}) makes a.json."""

    def call(**files: object) -> None:
        for name, value in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(value if isinstance(value, str) else json.dumps(value))

    return call


def read(folder: Path, *profiles: str, **more: Any) -> Document:
    environ = {"BUILDSTEP_PROFILE": ",".join(profiles)}
    return read_document(more.pop("argument", "m.json"), cwd=folder, environ=environ, **more)


def test_files_are_merged_in_their_order_and_the_file_itself_wins(tmp_path: Path, write: Write) -> None:
    write(
        a={
            "name": "a",
            "version": "1",
            "build": {"image": "scratch", "packages": ["one"], "oci": {"user": "1"}},
        },
        b={"version": "2", "tags": {"team": "b"}, "build": {"order": "packages-first"}},
        m={"include": ["a.json", "b.json"], "name": "m", "build": {"oci": {"workdir": "/srv"}}},
    )
    document = read(tmp_path)
    assert document.value == {
        "name": "m",
        "version": "2",
        "tags": {"team": "b"},
        "build": {
            "image": "scratch",
            "packages": ["one"],
            "oci": {"user": "1", "workdir": "/srv"},
            "order": "packages-first",
        },
    }
    assert document.files == {
        str(tmp_path / name): hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("a.json", "b.json", "m.json")
    }


def test_null_takes_away_and_plus_adds(tmp_path: Path, write: Write) -> None:
    write(
        a={"homepage": "https://a.example", "build": {"packages": ["one", "two"], "motd": True}},
        m={"include": ["a.json"], "homepage": None, "build": {"packages+": ["two", "three"], "motd": None}},
    )
    assert read(tmp_path).value == {"build": {"packages": ["one", "two", "three"]}}
    write(m={"include": [], "build": {"exclude+": ["*.pyc"]}})
    assert read(tmp_path).value == {"build": {"exclude": ["*.pyc"]}}


def test_profiles_come_last_in_the_order_of_the_command_line(tmp_path: Path, write: Write) -> None:
    write(
        a={"profiles": {"debug": {"build": {"packages+": ["strace"]}}}, "build": {"packages": ["one"]}},
        m={
            "include": ["a.json"],
            "version": "1",
            "profiles": {
                "debug": {"version": "1-debug", "build": {"packages+": ["gdb"]}},
                "small": {"version": "1-small", "build": {"packages": []}},
            },
        },
    )
    assert read(tmp_path).value == {"version": "1", "build": {"packages": ["one"]}}
    assert read(tmp_path, "debug").value == {
        "version": "1-debug",
        "build": {"packages": ["one", "strace", "gdb"]},
    }
    assert read(tmp_path, "debug", "small").value == {"version": "1-small", "build": {"packages": []}}
    assert read(tmp_path, "small", "debug").value == {
        "version": "1-debug",
        "build": {"packages": ["strace", "gdb"]},
    }


def test_paths_are_relative_to_the_file_that_has_them(tmp_path: Path, write: Write) -> None:
    write(
        common__base={"build": {"image": "scratch"}},
        common__all={"include": ["base.json"], "version": "3"},
        m={"include": ["common/all.json"], "name": "m"},
    )
    assert read(tmp_path).value == {"build": {"image": "scratch"}, "version": "3", "name": "m"}
    inline = read(tmp_path, argument='{"include": ["common/all.json"], "name": "n"}')
    assert inline.value == {"build": {"image": "scratch"}, "version": "3", "name": "n"}


def test_a_file_may_come_twice_but_not_in_itself(tmp_path: Path, write: Write) -> None:
    write(
        base={"build": {"packages+": ["one"]}},
        a={"include": ["base.json"], "version": "1"},
        b={"include": ["base.json"], "name": "b"},
        m={"include": ["a.json", "b.json"]},
    )
    assert read(tmp_path).value == {"build": {"packages": ["one"]}, "version": "1", "name": "b"}
    write(base={"include": ["./m.json"]}, a={})
    with pytest.raises(SpecError) as caught:
        read(tmp_path)
    assert "b.json: $.include[0]" not in str(caught.value.detail)
    assert (
        "base.json: $.include[0]: the files include each other: m.json -> b.json -> base.json -> m.json"
        in str(caught.value.detail)
    )


def test_templates_are_rendered_and_a_value_is_for_any_of_them(tmp_path: Path, write: Write) -> None:
    (tmp_path / "v.json.j2").write_text('{"version": "{{ number }}"}')
    write(m={"include": ["v.json.j2"], "name": "m"})
    assert read(tmp_path, defines={"number": "7"}).value == {"version": "7", "name": "m"}
    assert [fault.where for fault in read(tmp_path, defines={"number": "7", "colour": "red"}).faults] == [
        "-D colour"
    ]


def test_every_fault_is_told_with_its_file(tmp_path: Path, write: Write) -> None:
    write(
        a="{",
        b={"include": ["gone.json"], "profiles": {"x": {"include": ["a.json"]}}},
        c={"include": "a.json"},
        d=["no object"],
        e={"include": ["gone.json"]},
        f={"include": None},
        m={"include": [f"{name}.json" for name in "abcdef"], "build": {"packages+": "one"}},
    )
    with pytest.raises(SpecError) as caught:
        read(tmp_path, "debug")
    told = {fault.where: fault.message for fault in caught.value.faults}
    assert told.keys() == {
        "$.include[0], a.json: line 1 column 2",
        "b.json: $.profiles.x.include",
        "b.json: $.include[0], gone.json",
        "c.json: $.include",
        "d.json: $",
        "f.json: $.include",
        "e.json: $.include[0], gone.json",
        "$.build.packages+",
    }
    write(m={"profiles": {"debug": {}, "small": {}}})
    with pytest.raises(SpecError, match="1 fault") as caught:
        read(tmp_path, "debugs")
    assert 'there is no profile debugs (did you mean "debug"?)' in str(caught.value.detail)


def test_a_fault_of_what_was_included_names_its_file(build: Load, tmp_path: Path, write: Write) -> None:
    write(
        a={"version": "1", "build": {"image": "scratch", "packages": [7, "ok"], "order": "x"}},
        m={"include": ["a.json"], "name": "m", "nmae": 1, "build": {"packages+": [8]}},
    )
    found = faults(build, manifest_arg="m.json")
    assert ", in a.json" in found["$.build.packages[0]"]
    assert ", in a.json" in found["$.build.order"]
    assert ", in" not in found["$.build.packages[2]"]
    assert ", in" not in found["$.nmae"]


def test_a_file_alone_is_as_it_is(tmp_path: Path, write: Write) -> None:
    write(m={"name": None, "build": {"packages+": 1}})
    document = read(tmp_path)
    assert document.composed is None
    assert document.value == {"name": None, "build": {"packages+": 1}}
