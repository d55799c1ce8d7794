"""Contents: what decides a file's digest, and which digests of large files are used again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from buildstep.components.contents import Contents

LARGE = 2 << 20
OLD = (time.time() - 3600,) * 2


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index.json"


def contents(tmp_path: Path, index: Path) -> Contents:
    made = Contents(tmp_path)
    made.index = index
    return made


def large(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content.ljust(LARGE, b"."))


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were just written are at rest: their change times cannot be set back."""
    monkeypatch.setattr("buildstep.components.contents._AT_REST", -1)


def test_a_large_file_is_read_once_by_all_who_come_after(tmp_path: Path, index: Path) -> None:
    large(tmp_path, "big", b"1")
    (tmp_path / "small").write_bytes(b"1")
    first = contents(tmp_path, index)
    digests = [first.digest("big"), first.digest("small")]
    first.save()
    second = contents(tmp_path, index)
    assert [second.digest("big"), second.digest("small")] == digests
    assert (first.reads, second.reads) == (2, 1)


@pytest.mark.parametrize("way", ["written", "replaced", "time set back"])
def test_a_file_that_was_touched_is_read_again(tmp_path: Path, index: Path, way: str) -> None:
    large(tmp_path, "big", b"1")
    os.utime(tmp_path / "big", OLD)
    first = contents(tmp_path, index)
    before = first.digest("big")
    first.save()
    if way == "replaced":
        large(tmp_path, "new", b"2")
        os.utime(tmp_path / "new", OLD)
        os.replace(tmp_path / "new", tmp_path / "big")
    else:
        with (tmp_path / "big").open("r+b") as stream:
            stream.write(b"2")
        if way == "time set back":
            os.utime(tmp_path / "big", OLD)
    assert contents(tmp_path, index).digest("big") != before


def test_a_file_that_may_still_change_within_its_time_is_not_remembered(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    large(tmp_path, "big", b"1")
    first = contents(tmp_path, index)
    first.digest("big")
    first.save()
    assert not index.exists()


def test_who_looks_at_a_part_keeps_the_rest_and_what_is_gone_is_forgotten(
    tmp_path: Path, index: Path
) -> None:
    for name in ("a", "b", "c"):
        large(tmp_path, name, b"1")
    first = contents(tmp_path, index)
    for name in ("a", "b", "c"):
        first.digest(name)
    first.save()
    (tmp_path / "c").unlink()
    large(tmp_path, "d", b"1")
    second = contents(tmp_path, index)
    second.digest("d")
    second.save()
    third = contents(tmp_path, index)
    for name in ("a", "b", "d"):
        third.digest(name)
    assert third.reads == 0
    assert '"c"' not in index.read_text()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 0, "files": {}}', '{"format": 1}', '{"format": 1, "files": {"big": 1}}']
)
def test_a_damaged_index_is_none(tmp_path: Path, index: Path, text: str) -> None:
    large(tmp_path, "big", b"1")
    index.write_text(text)
    made = contents(tmp_path, index)
    assert made.digest("big") == contents(tmp_path, tmp_path / "none").digest("big")
    assert made.reads == 1


def test_only_what_a_checkout_keeps_of_a_mode_counts(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "l").symlink_to("f")
    made = Contents(tmp_path)
    (tmp_path / "f").chmod(0o600)
    plain = made.digest("f")
    (tmp_path / "f").chmod(0o664)
    assert made.digest("f") == plain
    (tmp_path / "f").chmod(0o764)
    assert made.digest("f") == plain.replace("f - ", "f x ")
    assert made.digest("l").startswith("l - ")
