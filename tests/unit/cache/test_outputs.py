"""Notes of outputs: valid only while every file is untouched, and a reason when they are not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from buildstep.cache import outputs
from buildstep.system.files import stamp

PLACE = Path("/out/hello")
INPUTS: dict[str, Any] = {"version": "1.0.0", "formats": ["oci"]}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("hello.oci.tar", "hello.buildrecord.json")]
    for path in paths:
        path.write_bytes(b"content")
    return paths


def save(state: Path, files: list[Path]) -> str:
    outputs.save(state, INPUTS, PLACE, files, {"uuid": "u", "files": [1]})
    outputs.save_last(state, "hello", outputs.Last(INPUTS, "key", {"packages": ["a"]}))
    return outputs.key_of(INPUTS)


def test_untouched_outputs_are_found(state: Path, files: list[Path]) -> None:
    key = save(state, files)
    assert outputs.find(state, key, PLACE) == {"uuid": "u", "files": [1], "key": key, "place": "/out/hello"}
    path = state / "artifacts" / f"{key}.json"
    os.utime(path, (1, 1))
    outputs.touch(state, key)
    assert path.stat().st_mtime > 1
    outputs.touch(state, "missing")


def test_other_inputs_have_another_key() -> None:
    assert outputs.key_of(INPUTS) == outputs.key_of(dict(reversed(INPUTS.items())))
    assert outputs.key_of(INPUTS) != outputs.key_of(INPUTS | {"version": "1.0.1"})


@pytest.mark.parametrize("harm", ["touched", "replaced", "removed"])
def test_outputs_that_were_touched_are_void(state: Path, files: list[Path], harm: str) -> None:
    key = save(state, files)
    if harm == "touched":
        os.utime(files[1], ns=(1, 1))
    elif harm == "replaced":
        (files[0].with_suffix(".new")).write_bytes(b"content")
        files[0].with_suffix(".new").rename(files[0])
    else:
        files[0].unlink()
    assert outputs.find(state, key, PLACE) is None
    assert outputs.why_not(outputs.last(state, "hello"), INPUTS) == [
        "the outputs of the last build were changed or removed"
    ]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}', '{"format": 3}', '{"format": 3, "files": 1}',
                                  '{"format": 3, "files": [], "told": {}}'])  # fmt: skip
def test_damaged_notes_are_none(state: Path, files: list[Path], text: str) -> None:
    key = save(state, files)
    for path in (state / "artifacts").iterdir():
        path.write_text(text)
    assert outputs.find(state, key, PLACE) is None
    assert outputs.why_not(outputs.last(state, "hello"), INPUTS) == ["the first build of this component"]
    outputs.restamp(state, files[0], stamp(files[0]))  # and others can still be looked through


def test_why_outputs_are_made_again(state: Path, files: list[Path]) -> None:
    assert outputs.why_not(outputs.last(state, "hello"), INPUTS) == ["the first build of this component"]
    save(state, files)
    assert outputs.why_not(outputs.last(state, "hello"), INPUTS | {"version": "2"}) == ["version: 1.0.0 -> 2"]
    assert outputs.why_not(outputs.last(state, "hello"), {"version": "1.0.0", "formats": ["oci", "tar"]}) == [
        "formats: tar added"
    ]
    assert outputs.why_not(outputs.last(state, "other"), INPUTS) == ["the first build of this component"]


def test_an_output_that_we_changed_stays_valid(state: Path, files: list[Path]) -> None:
    key = save(state, files)
    record = files[1]
    before = stamp(record)
    record.write_bytes(b"content and more")
    outputs.restamp(state, record, before)
    assert outputs.find(state, key, PLACE) is not None
    # Somebody else's change is none of ours.
    before = stamp(record)
    record.write_bytes(b"somebody else")
    touched = stamp(record)
    record.write_bytes(b"then we")
    outputs.restamp(state, record, touched)
    assert before != touched
    assert outputs.find(state, key, PLACE) is None


def test_a_file_beside_them_that_we_changed_is_known_as_it_is(state: Path, files: list[Path]) -> None:
    beside = files[0].with_name("beside.sig")
    beside.write_bytes(b"one")
    told = {"trust": {"asked": "a", "files": {str(beside): stamp(beside), "/other": [1]}}}
    outputs.save(state, INPUTS, PLACE, files, told)
    before = stamp(beside)
    beside.write_bytes(b"one and two")
    outputs.restamp(state, beside, [1, 2, 3])
    key = outputs.key_of(INPUTS)
    assert (outputs.find(state, key, PLACE) or {})["trust"] == told["trust"]
    outputs.restamp(state, beside, before)
    assert (outputs.find(state, key, PLACE) or {})["trust"]["files"] == {
        str(beside): stamp(beside),
        "/other": [1],
    }


def test_a_note_is_one_document_with_a_format(state: Path, files: list[Path]) -> None:
    key = save(state, files)
    value = json.loads((state / "artifacts" / f"{key}.json").read_bytes())
    assert value["format"] == outputs.FORMAT
    assert value["places"][os.fspath(PLACE)]["files"] == {os.fspath(path): stamp(path) for path in files}


def test_a_change_inside_a_directory_is_noticed(state: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x.oci"
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    (folder / "index.json").write_bytes(b"{}")
    (blobs / "a").write_bytes(b"layer")
    key = save(state, [folder])
    assert outputs.find(state, key, PLACE) is not None
    (tmp_path / "other name").hardlink_to(blobs / "a")
    assert outputs.find(state, key, PLACE) is not None, (
        "a name of a layer in a pool or another image is no change"
    )
    (tmp_path / "other name").unlink()
    assert outputs.find(state, key, PLACE) is not None
    for change in (
        lambda: (blobs / "a").write_bytes(b"LAYER"),
        lambda: (blobs / "b").write_bytes(b""),
        (folder / "index.json").unlink,
        lambda: folder.rename(tmp_path / "y"),
    ):
        save(state, [folder])
        change()
        assert outputs.find(state, key, PLACE) is None
