"""SHA-256 of the files of a tree."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from buildstep.system import workers
from buildstep.tree import hashing
from buildstep.tree.entry import Entry
from buildstep.tree.hashing import FileHasher, hash_entries


@pytest.fixture(params=["1", "2", "7"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """So many workers, which are used at once."""
    monkeypatch.setenv(workers.VARIABLE, request.param)
    monkeypatch.setattr(hashing, "_ENOUGH", 100_000)
    return str(request.param)


def _files(top: Path, count: int) -> list[Entry]:
    entries = []
    for number in range(count):
        name = f"file {number}\n"
        content = hashlib.sha256(b"%d" % number).digest() * (number * number % 211)
        if number % 17 == 3:
            content *= 20  # more than is read in one go
        (top / name).write_bytes(content)
        entries.append(Entry(name.encode(), "f", 0o644, 0, 0, size=len(content)))
    return entries


def test_each_file_gets_its_digest(tmp_path: Path, few: str) -> None:
    entries = _files(tmp_path, 150)
    entries[7].sha256 = "known"
    entries[8].first = entries[7].path
    total = hash_entries(tmp_path, [*entries, Entry(b"folder", "d", 0o755, 0, 0)])
    assert entries[7].sha256 == "known"
    assert entries[8].sha256 == ""
    assert total == sum(entry.size for entry in entries if entry not in (entries[7], entries[8]))
    for entry in entries[9:]:
        content = (tmp_path / os.fsdecode(entry.path)).read_bytes()
        assert entry.sha256 == hashlib.sha256(content).hexdigest()


def test_content_is_read_where_it_is(tmp_path: Path, few: str) -> None:
    entries = _files(tmp_path, 20)
    for entry in entries:
        entry.source, entry.path = os.fsencode(tmp_path) + b"/" + entry.path, b"elsewhere/" + entry.path
    hash_entries(b"", entries)
    assert all(entry.sha256 for entry in entries)


def test_a_file_is_hashed_as_it_is_now(tmp_path: Path, few: str) -> None:
    """Whatever size was listed: who compares sizes does it elsewhere."""
    entries = _files(tmp_path, 60)
    for number, content in ((20, b""), (30, b"longer" * 100), (37, b"x"), (40, b"y" * 300_000)):
        (tmp_path / os.fsdecode(entries[number].path)).write_bytes(content)
    assert hash_entries(tmp_path, entries) == sum(path.stat().st_size for path in tmp_path.iterdir())
    for entry in entries:
        content = (tmp_path / os.fsdecode(entry.path)).read_bytes()
        assert entry.sha256 == hashlib.sha256(content).hexdigest()


def test_the_first_that_cannot_be_read_is_told(tmp_path: Path, few: str) -> None:
    entries = _files(tmp_path, 150)
    (tmp_path / os.fsdecode(entries[149].path)).unlink()
    gone = tmp_path / os.fsdecode(entries[111].path)
    gone.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        hash_entries(tmp_path, entries)
    assert caught.value.filename == os.fsencode(gone)


def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path, few: str) -> None:
    (entry,) = _files(tmp_path, 1)
    path = tmp_path / os.fsdecode(entry.path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        hash_entries(tmp_path, [entry])


def test_digests_come_while_files_are_named(tmp_path: Path, few: str) -> None:
    entries = _files(tmp_path, 200)
    with FileHasher(tmp_path) as hasher:
        for entry in entries:
            hasher.add(entry)
        total = hasher.finish()
    assert total == hasher.read == sum(entry.size for entry in entries)
    assert all(entry.sha256 for entry in entries)


def test_nothing_is_nothing(tmp_path: Path) -> None:
    with FileHasher(tmp_path) as hasher:
        assert hasher.finish() == 0


@pytest.mark.parametrize(
    "pieces", [[(0, 100_000)], [(5 << 20, 1 << 20)], [(3 << 20, 10), (9 << 20, 5000), (16 << 20, 1)], []]
)
def test_holes_are_hashed_and_not_read(tmp_path: Path, pieces: list[tuple[int, int]]) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        for at, size in pieces:
            stream.seek(at)
            stream.write(b"data" * (size // 4 + 1))
        stream.truncate(20 << 20)
    found = Entry(b"sparse", "f", 0o644, 0, 0, 20 << 20)
    read = hash_entries(tmp_path, [found])
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read <= path.stat().st_blocks * 512
    # A file that is longer than it was said to be is read to its end.
    shorter = Entry(b"sparse", "f", 0o644, 0, 0, 1000)
    hash_entries(tmp_path, [shorter])
    assert shorter.sha256 == found.sha256
