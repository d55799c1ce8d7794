"""The journal of a build, and what `heal` takes: what is ours and belongs to nobody alive."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildstep.errors import DatasetError
from buildstep.pool import heal as pool_heal
from buildstep.pool import journal, stale, verify
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.heal import find_stale, heal
from buildstep.pool.interface import Kind
from buildstep.pool.journal import Journal, acquired, damaged_lines, open_journal, record_of
from buildstep.system import cgroup
from buildstep.system.files import atomic_write
from buildstep.system.locks import take_lock, try_lock


@pytest.fixture
def pool(tmp_path: Path) -> DirectoryBackend:
    backend = DirectoryBackend(os.fspath(tmp_path / "pool"))
    backend.destroy(Kind.BUILD, backend.create("first").ident)
    return backend


def die(pool: DirectoryBackend, what: str) -> str:
    """Run lines as a build that is killed without a chance to undo anything; returns its id."""
    code = f"""
import os, signal, sys
from pathlib import Path
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.journal import open_journal
backend = DirectoryBackend({os.fspath(pool.path)!r})
with open_journal(backend.state, "test") as journal:
    print(journal.ident, flush=True)
{"".join(f"    {row}{chr(10)}" for row in what.splitlines())}
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    return done.stdout.strip()


def files(top: Path) -> list[str]:
    """Everything of a pool but its mark, empty folders and locks."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), top)
        for folder, _, names in os.walk(top)
        for name in names
        if not name.endswith(".lock") and name != "buildstep-pool.json"
    )


def test_a_build_that_ends_well_leaves_no_journal(pool: DirectoryBackend) -> None:
    with open_journal(pool.state, "build hello 1") as opened:
        (path,) = (pool.state / "journal").iterdir()
        head = json.loads(path.read_text().splitlines()[0])
        assert head["id"] == opened.ident
        assert head["what"] == "build hello 1"
        assert head["pid"] == os.getpid()
        assert {"boot", "started", "uid", "time", "format"} <= set(head)
        with try_lock(path, create=False) as ours:
            assert not ours
    assert files(pool.path) == []


def test_what_is_acquired_is_written_down_first(pool: DirectoryBackend, tmp_path: Path) -> None:
    with open_journal(pool.state, "x") as opened:
        name = opened.dataset(f"{opened.ident}-1")
        opened.mount(tmp_path / "mnt")
        opened.outputs(tmp_path / "hello-1")
        for note in cgroup._notes:
            note(tmp_path / "group")
        rows = [record_of(row) for row in opened.path.read_bytes().splitlines()[1:]]
    assert rows == [
        {"acquire": "dataset", "ident": name},
        {"acquire": "mount", "path": os.fspath(tmp_path / "mnt")},
        {"acquire": "outputs", "path": os.fspath(tmp_path / "hello-1")},
        {"acquire": "cgroup", "path": os.fspath(tmp_path / "group")},
    ]
    assert cgroup._notes == []


def test_a_damaged_line_is_passed_over_and_what_it_named_is_found_by_its_name(
    pool: DirectoryBackend, tmp_path: Path
) -> None:
    with open_journal(pool.state, "x") as opened:
        pool.create(opened.dataset(f"{opened.ident}-1"))
        opened.folder(pool.state / "work" / opened.ident)
        lines = opened.path.read_bytes()
    path = pool.state / "journal/20260101T000000-dead.jsonl"
    assert damaged_lines(lines.splitlines(keepends=True)) == []
    path.write_bytes(lines)
    names = {item.name for item in acquired(path)}
    assert len(names) == 2
    for at in range(len(lines)):
        wrong = lines[:at] + bytes([lines[at] ^ 2]) + lines[at + 1 :]
        path.write_bytes(wrong)
        assert {item.name for item in acquired(path)} <= names
        assert damaged_lines(wrong.splitlines(keepends=True)) != [], wrong
    path.write_bytes(b"\0" * 40)
    (row,) = verify.journals(pool)
    assert (row.kind, row.file) == ("journal", path)
    with open_journal(pool.state, "x") as live:
        working = live.folder(pool.state / "work" / live.ident)
        assert {(item.kind, item.removed) for item in heal(pool)} == {("dataset", True), ("folder", True)}
        assert working.is_dir(), "of a build that is running"
    assert pool.idents(Kind.BUILD) == []
    assert not path.exists()


def test_only_names_that_are_ours_are_written_down(pool: DirectoryBackend) -> None:
    with open_journal(pool.state, "x") as opened, pytest.raises(AssertionError):
        opened.dataset("somebody-elses")


def test_an_error_that_undid_everything_leaves_no_journal(pool: DirectoryBackend) -> None:
    def fail() -> None:
        with open_journal(pool.state, "x") as opened:
            pool.create(opened.dataset(f"{opened.ident}-1"))
            pool.destroy(Kind.BUILD, f"{opened.ident}-1")
            raise DatasetError("no")

    with pytest.raises(DatasetError):
        fail()
    assert files(pool.path) == []


def test_an_error_before_the_undo_was_taken_down_leaves_no_file(
    pool: DirectoryBackend, tmp_path: Path
) -> None:
    """A signal can come between the making of a file and whatever would remove it."""

    def fail() -> None:
        with open_journal(pool.state, "x") as opened:
            opened.outputs(tmp_path / "hello-1")
            (tmp_path / ".hello-1.events.jsonl.1.2.part").touch()
            (opened.folder(pool.state / "work" / opened.ident) / "x").touch()
            opened.outputs(pool.state / "blobs" / "name")
            (pool.state / "blobs").mkdir()
            (pool.state / "blobs" / ".name.1.2.part").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert files(pool.path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


KILLED = {
    "dataset": """
data = backend.create(journal.dataset(journal.ident + "-1"))
(data.path / "file").write_text("x")
""",
    "noted and not made": 'journal.dataset(journal.ident + "-1")',
    "folder": '(journal.folder(backend.state / "work" / journal.ident) / "x").write_text("x")',
    "outputs": """
journal.outputs(Path("{out}/hello-1"))
Path("{out}/.hello-1.oci.tar.1.2.part").write_text("x")
Path("{out}/.hello-1.lock").write_text("")
""",
    "half a record": """
(backend.state / "images").mkdir()
(backend.state / "images" / ".u.json.1.2.part").write_text("x")
""",
    "a torn last line": """
data = backend.create(journal.dataset(journal.ident + "-1"))
os.write(journal._fd, b'{{"acquire": "dataset", "ide')
""",
}


@pytest.mark.commands
@pytest.mark.parametrize("what", KILLED.values(), ids=KILLED)
def test_what_a_killed_build_left_is_removed(pool: DirectoryBackend, tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "hello-1.oci.tar").write_text("an earlier build's")
    die(pool, what.strip().format(out=out))
    assert all(left.removed for left in heal(pool))
    assert files(pool.path) == []
    assert pool.idents(Kind.BUILD) == []
    assert [path.name for path in out.iterdir()] == ["hello-1.oci.tar"]
    assert heal(pool) == []


@pytest.mark.commands
def test_leftovers_tells_and_changes_nothing(pool: DirectoryBackend) -> None:
    ident = die(pool, KILLED["dataset"].strip())
    before = files(pool.path)
    assert find_stale(pool) == [(ident, "dataset", f"{ident}-1")]
    assert files(pool.path) == before
    heal(pool)
    assert find_stale(pool) == []


@pytest.fixture
def live(pool: DirectoryBackend, tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """A build that is still at work; yields what looks whether all of its things are there."""
    out = tmp_path / "out"
    out.mkdir()
    with open_journal(pool.state, "live") as opened:
        data = pool.create(opened.dataset(f"{opened.ident}-1"))
        (data.path / "file").touch()
        (opened.folder(pool.state / "work" / opened.ident) / "x").touch()
        opened.outputs(out / "hello-1")
        lock = take_lock(stale.output_lock(out / "hello-1"))
        (out / ".hello-1.oci.tar.1.1.part").touch()
        (pool.state / "blobs").mkdir()
        opened.outputs(pool.state / "blobs" / "name")
        with atomic_write(pool.state / "blobs" / "name"):

            def look() -> list[str]:
                return files(pool.path) + sorted(path.name for path in out.iterdir())

            yield look
        os.close(lock)
        pool.destroy(Kind.BUILD, data.ident)


def test_a_live_build_is_left_alone(pool: DirectoryBackend, live: Callable[[], list[str]]) -> None:
    before = live()
    assert len(before) == 6, before
    assert heal(pool) == []
    assert live() == before


@pytest.mark.commands
def test_a_dead_builds_things_go_beside_a_live_one_of_the_same_name(
    pool: DirectoryBackend, live: Callable[[], list[str]], tmp_path: Path
) -> None:
    before = live()
    out = tmp_path / "out"
    rows = [
        f'journal.outputs(Path("{out}/hello-1"))',
        'journal.outputs(backend.state / "blobs" / "name")',
        '(backend.state / "blobs" / ".name.7.7.part").write_text("dead")',
        'backend.create(journal.dataset(journal.ident + "-1"))',
    ]
    die(pool, "\n".join(rows))
    assert all(left.removed for left in heal(pool))
    assert live() == before


def test_orphans_without_a_journal_go(pool: DirectoryBackend) -> None:
    pool.create("20200101T000000-00000000-1")
    (left,) = heal(pool)
    assert (left.kind, left.name, left.removed) == ("dataset", "20200101T000000-00000000-1", True)


def test_a_journal_cannot_make_heal_remove_what_is_not_ours(pool: DirectoryBackend, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "deep").mkdir(parents=True)
    (precious / "file").write_text("x")
    # It looks like a control group with this process in it.
    planted = tmp_path / "buildstep-0123456789abcdef"
    planted.mkdir()
    (planted / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / ".link.part").symlink_to(precious / "file")
    (tmp_path / ".folder.part").mkdir()
    base = pool.create("base")
    pool.snapshot(base, Kind.IMAGE, "base")
    records = [
        {"acquire": "folder", "path": os.fspath(precious)},
        {"acquire": "folder", "path": os.fspath(pool.state / ".." / ".." / "precious")},
        {"acquire": "file", "path": os.fspath(precious / "file")},
        {"acquire": "file", "path": os.fspath(tmp_path / ".link.part")},
        {"acquire": "file", "path": os.fspath(tmp_path / ".folder.part")},
        {"acquire": "dataset", "ident": "../image/base"},
        {"acquire": "outputs", "path": os.fspath(precious / "fi")},
        {"acquire": "outputs", "path": os.fspath(tmp_path / "link")},
        {"acquire": "outputs", "path": os.fspath(tmp_path / "folder")},
        {"acquire": "cgroup", "path": os.fspath(planted)},
        {"acquire": "unheard-of", "path": os.fspath(precious)},
        {"acquire": "file"},
        ["no object"],
        7,
    ]
    (pool.state / "journal").mkdir()
    rows = "".join(json.dumps(record) + "\n" for record in records)
    (pool.state / "journal" / "evil.jsonl").write_text(rows + "not json\n")
    heal(pool)
    assert sorted(path.name for path in precious.iterdir()) == ["deep", "file"]
    assert (tmp_path / ".link.part").is_symlink()
    assert (tmp_path / ".folder.part").is_dir()
    assert planted.is_dir()
    assert pool.idents(Kind.IMAGE) == ["base"]


@pytest.mark.commands
def test_what_was_kept_stays_until_it_is_asked_for(pool: DirectoryBackend) -> None:
    ident = die(pool, KILLED["dataset"].strip())
    journal.keep(pool, f"{ident}-1")
    assert heal(pool) == []
    assert pool.idents(Kind.BUILD) == [f"{ident}-1"]
    assert find_stale(pool) == []
    (left,) = pool_heal.drop_kept(pool)
    assert left.removed
    assert pool.idents(Kind.BUILD) == []
    assert journal.kept(pool) == set()


@pytest.mark.commands
def test_a_file_that_cannot_be_removed_is_told_and_tried_again(
    pool: DirectoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(pool, KILLED["dataset"].strip())

    def refuse(_kind: Kind, _ident: str) -> None:
        raise DatasetError("it is busy")

    with monkeypatch.context() as patch:
        patch.setattr(pool, "destroy", refuse)
        assert {(left.removed, left.problem) for left in heal(pool)} == {(False, "it is busy")}
    assert all(left.removed for left in heal(pool))
    assert pool.idents(Kind.BUILD) == []


def test_a_pool_whose_making_was_killed_is_made_by_the_next_build(tmp_path: Path) -> None:
    top = tmp_path / "new"
    (top / "state/journal").mkdir(parents=True)
    (top / "image").mkdir()
    half = top / ".buildstep-pool.json.1.23.part"
    half.write_text("half a mark")
    backend = DirectoryBackend(os.fspath(top))
    backend.create("one")
    assert (top / "buildstep-pool.json").exists()
    assert not half.exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.part").touch()
    with pytest.raises(DatasetError, match="not ours"):
        DirectoryBackend(os.fspath(tmp_path / "other"))


def test_a_journal_is_a_resource_of_its_build(pool: DirectoryBackend) -> None:
    with open_journal(pool.state, "a") as one, open_journal(pool.state, "b") as two:
        assert isinstance(one, Journal)
        assert one.ident != two.ident
        assert heal(pool) == []
    assert files(pool.path) == []


def test_half_a_line_on_a_full_disk_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk took a part of the line: what it is about must not be acquired."""
    real, left = os.write, 5

    def write(fd: int, data: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(fd, bytes(data)[:left])
        left -= done
        return done

    def build() -> None:
        with open_journal(tmp_path / "state", "build") as opened:
            monkeypatch.setattr(os, "write", write)
            opened.folder(tmp_path / "state/work/x")

    with pytest.raises(OSError, match="No space left"):
        build()
    assert not (tmp_path / "state/work/x").exists()
