"""What git's index says of files: never that a file is a blob that it is not, in repositories of every kind."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from buildstep.tree import git_index, stat_lines
from buildstep.tree.git_index import GitIndex
from buildstep.tree.proto import Memory, scan_proto
from buildstep.tree.stat_index import StatIndex

pytestmark = pytest.mark.commands("git")

SETTINGS = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "protocol.file.allow=always")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", os.fspath(folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return folder


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *SETTINGS, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def repository(top: Path, *options: str, count: int = 12) -> Path:
    top.mkdir()
    git(top, "init", "--quiet", *options)
    for number in range(count):
        path = top / f"d{number % 3}/f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"content {number}\n" * (number + 1))
    commit(top)
    return top


def commit(top: Path) -> None:
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--allow-empty", "--message", "x")


def rest(top: Path) -> None:
    """Let the index be written well after all files, as it is where a checkout takes a while."""
    time.sleep(0.03)
    words = ["git", "update-index", "-q", "--refresh", "--force-write-index"]
    subprocess.run(words, cwd=top, check=False, capture_output=True)


def read(top: Path) -> GitIndex:
    found = git_index.find(os.fsencode(top))
    assert found is not None
    return found


def vouched(top: Path, index: GitIndex | None = None) -> dict[str, bytes]:
    """The blobs that the index says files are; each of the file's own size is what is in it."""
    index = index or read(top)
    found = {}
    for path in sorted(top.rglob("*")):
        name = os.fsencode(path.relative_to(top))
        if path.is_symlink() or not path.is_file() or name.startswith(b".git/"):
            continue
        seen = stat_lines.parse(stat_lines.line(name, path.lstat()))
        said = (seen.ctime, seen.mtime, seen.inode, seen.mode, seen.uid, seen.gid, seen.size)
        if blob := index.blob(name, said):
            found[os.fsdecode(name)] = blob
    return found


def true(top: Path, names: dict[str, bytes]) -> bool:
    return all(
        git_index.blob_name((top / name).read_bytes(), len(blob)) == blob for name, blob in names.items()
    )


@pytest.mark.parametrize("version", ["2", "3", "4"])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_all_versions_and_both_hashes(tmp_path: Path, version: str, algorithm: str) -> None:
    top = repository(tmp_path / "r", f"--object-format={algorithm}")
    (top / ("long" * 60)).write_text("a long name")
    (top / os.fsdecode(b"\xff")).write_text("no UTF-8")
    commit(top)
    git(top, "update-index", "--index-version", version)
    git(top, "update-index", "--untracked-cache")
    rest(top)
    names = vouched(top)
    assert len(names) == 14
    assert true(top, names)
    assert read(top).plain
    assert len(vouched(top / "d1")) == 4
    assert true(top / "d1", vouched(top / "d1"))
    assert git_index.find(os.fsencode(tmp_path)) is None
    assert git_index.find(os.fsencode(top / ".git")) is None


def test_a_work_tree_beside_the_repository(tmp_path: Path) -> None:
    top = repository(tmp_path / "r")
    git(top, "worktree", "add", "--quiet", os.fspath(tmp_path / "w"))
    rest(tmp_path / "w")
    assert len(vouched(tmp_path / "w")) == 12
    (tmp_path / "link").symlink_to("w/d1")
    assert len(vouched(tmp_path / "link")) == 4


def test_what_says_nothing_of_the_disk(tmp_path: Path) -> None:
    top = repository(tmp_path / "r")
    inner = repository(tmp_path / "s")
    git(top, "submodule", "--quiet", "add", os.fspath(inner), "sub")
    commit(top)
    for number, flag in enumerate(("--assume-unchanged", "--skip-worktree")):
        git(top, "update-index", flag, f"d{number}/f{number}")
    (top / "new").write_text("to come")
    git(top, "add", "--intent-to-add", "new")
    (top / "untracked").write_text("not git's")
    rest(top)
    names = vouched(top)
    assert not {"d0/f0", "d1/f1", "new", "untracked", "sub/d0/f0"} & names.keys()
    assert len(names) == 11  # .gitmodules too
    assert true(top, names)


def test_conflicts_are_passed_over(tmp_path: Path) -> None:
    top = repository(tmp_path / "r")
    git(top, "checkout", "--quiet", "-b", "other")
    (top / "d0/f0").write_text("theirs")
    commit(top)
    git(top, "checkout", "--quiet", "-")
    (top / "d0/f0").write_text("ours")
    commit(top)
    subprocess.run(["git", *SETTINGS, "merge", "other"], cwd=top, capture_output=True, check=False)
    names = vouched(top)
    assert "d0/f0" not in names
    assert true(top, names)


ATTRIBUTES = (
    ("*.x filter=shout\n", True, False), ("* working-tree-encoding=UTF-16\n", True, False),
    ("[attr]loud filter=shout\n", True, False), ("*.b filter=lfs diff=lfs -text\n", False, False),
    ("* text=auto\n*.x -ident\n", False, False), ("*.id ident\n", True, False), ("*.c diff=cpp\n", False, True), ("*.x -filter\n", False, True),
)  # fmt: skip


def test_attributes_that_convert(tmp_path: Path, home: Path) -> None:
    top = repository(tmp_path / "r")
    places = (".gitattributes", "d1/.gitattributes", ".git/info/attributes", "../home/.config/git/attributes")
    for name in places:
        place = top / name
        place.parent.mkdir(parents=True, exist_ok=True)
        for text, refused, plain in ATTRIBUTES:
            place.write_text(text)
            found = git_index.find(os.fsencode(top), [b"d1/.gitattributes"])
            assert found is not None
            assert (bool(found.why_not), found.plain) == (refused, plain), (name, text)
        place.unlink()


def test_one_blob_that_is_other_bytes_of_the_same_size_in_another_checkout(tmp_path: Path) -> None:
    top = repository(tmp_path / "r")
    (top / "id").write_text(f"$Id: {'a' * 40} $\n")
    commit(top)
    (top / ".gitattributes").write_text("id ident\n")
    commit(top)
    git(tmp_path, "clone", "--quiet", "r", "c")
    rest(tmp_path / "c")
    one, two = (top / "id").read_bytes(), (tmp_path / "c/id").read_bytes()
    assert len(one) == len(two)
    assert one != two
    assert vouched(tmp_path / "c") == {}


@pytest.mark.parametrize("version", ["2", "4"])
def test_attributes_that_are_in_the_index_alone(tmp_path: Path, version: str) -> None:
    top = repository(tmp_path / "r")
    (top / "d0/.gitattributes").write_text("*.x filter=shout\n")
    commit(top)
    git(top, "update-index", "--index-version", version)
    git(top, "update-index", "--skip-worktree", "d0/.gitattributes")
    (top / "d0/.gitattributes").unlink()
    rest(top)
    assert read(top).why_not == read(top / "d1").why_not == "attributes of git are not checked out"


SETTINGS_OF_GIT = (
    ("[core]\n\tattributesFile = /x\n", True, False), ("[attr]\n\ttree = HEAD\n", True, False),
    ("[core]\n\tautocrlf = input\n", False, False), ("[core]\n\teol = crlf\n", False, False),
    ("[include]\n\tpath = more\n", True, False), ("[include] path = more\n", True, False), ('[includeIf "x"]\n path = "~/more"\n', True, False),
    ("[user]\n\tname = me\n", False, True),
)  # fmt: skip


def test_settings_that_convert(tmp_path: Path, home: Path) -> None:
    top = repository(tmp_path / "r")
    (home / "more").write_text("[core]\n\tattributesfile = y\n")
    for text, refused, plain in SETTINGS_OF_GIT:
        (home / ".gitconfig").write_text(text)
        found = read(top)
        assert (bool(found.why_not), found.plain) == (refused, plain), text


def test_damage_and_parts_that_are_not_known(tmp_path: Path) -> None:
    top = repository(tmp_path / "r")
    place = top / ".git/index"
    good = place.read_bytes()
    rng = random.Random(4)
    for _ in range(40):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        place.write_bytes(data)
        assert read(top).why_not
    for text in (b"", b"DIRC", good[:-1], good[: len(good) // 2], good + b"x"):
        place.write_bytes(text)
        assert read(top).why_not
    unhashed = good[:-20] + bytes(20)  # index.skipHash
    place.write_bytes(unhashed)
    assert not read(top).why_not
    for name, refused in ((b"abcd", True), (b"ABCD", False), (b"sdir", False)):
        body = good[:-20] + name + (3).to_bytes(4, "big") + b"xyz"
        place.write_bytes(body + hashlib.sha1(body, usedforsecurity=False).digest())
        assert bool(read(top).why_not) is refused
    place.unlink()
    assert read(top).why_not
    place.write_bytes(good)
    git(top, "update-index", "--split-index")
    assert "split" in read(top).why_not
    place.chmod(0o666)
    assert read(top).why_not


def test_an_index_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = repository(tmp_path / "r")
    rest(top)
    found = read(top)
    other = GitIndex(found.entries, found.written, owner=os.getuid() + 4711, plain=True)
    assert vouched(top, other) == {}
    assert vouched(top, found)


def test_a_file_of_the_tick_in_which_the_index_was_written(tmp_path: Path) -> None:
    top = repository(tmp_path / "r")
    wrong = 0
    for number in range(60):
        path = top / "d0/f0"
        path.write_text(f"{number:05}\n")
        git(top, "update-index", "--add", "d0/f0")
        path.write_text(f"{number + 1:05}\n")
        wrong += not true(top, vouched(top))
    assert not wrong


def test_random_edits(tmp_path: Path) -> None:
    """Whatever is done to files and to the index, what is vouched for is so."""
    for seed in range(3):
        rng = random.Random(seed)
        top = repository(tmp_path / f"r{seed}", count=20)
        told = 0
        for step in range(40):
            files = [path for path in sorted(top.glob("d*/*")) if path.is_file() and not path.is_symlink()]
            path = rng.choice(files)
            act = rng.randrange(10)
            if act == 0:
                path.write_bytes(rng.randbytes(path.stat().st_size))
            elif act == 1:
                info, content = path.stat(), path.read_bytes()
                path.write_bytes(content[::-1])
                os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
            elif act == 2:
                path.rename(path.with_name(f"n{step}"))
            elif act == 3:
                other = rng.choice(files)
                one, two = path.read_bytes(), other.read_bytes()
                path.write_bytes(two)
                other.write_bytes(one)
            elif act == 4:
                path.chmod(rng.choice([0o644, 0o755]))
            elif act == 5:
                git(top, "checkout", "--quiet", "--", ".")
            elif act == 6:
                git(top, "stash", "--quiet", "--include-untracked")
            elif act == 7:
                commit(top)
            elif act == 8:
                git(top, "update-index", "--index-version", rng.choice("234"))
            else:
                git(top, "status")
            if rng.random() < 0.5:
                rest(top)
            names = vouched(top)
            told += len(names)
            assert true(top, names), f"seed {seed}, step {step}"
        assert told > 100


@pytest.mark.commands("git", "find")
def test_what_changed_while_it_was_read_for_the_plan_is_not_learnt(tmp_path: Path) -> None:
    top, state = repository(tmp_path / "r"), tmp_path / "state"
    rest(top)
    index = StatIndex(state, top)
    memory = Memory(stable=True)
    seen = scan_proto(top, index=index, memory=memory)
    (top / "d0/f0").write_text("CONTENT 0\n")
    assert seen.read_few()
    seen.save(index)
    rows = {path: row[13] for path, row in index.load().paths.items()}
    assert rows[b"d1/f1"]
    assert not rows[b"d0/f0"]
    git(top, "checkout", "--quiet", ".")
    rest(top)
    again = scan_proto(top, index=index, memory=memory)
    again.read_all()
    assert again.entries[b"d0/f0"].sha256 == hashlib.sha256(b"content 0\n").hexdigest()
