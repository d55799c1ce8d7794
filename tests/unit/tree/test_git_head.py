"""The commit of a checkout, read without git, is what git says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.system import process
from buildstep.tree import git_head

pytestmark = pytest.mark.commands("git")


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")
    return process.query(["git", "-C", str(folder), *who, *words]).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    top = tmp_path / "work"
    (top / "a/proto").mkdir(parents=True)
    (top / "a/proto/file").write_text("1")
    git(top, "init", "-q")
    git(top, "add", ".")
    git(top, "commit", "-q", "-m", "one")
    return top


@pytest.mark.parametrize("form", ["branch", "packed", "detached", "work tree"])
def test_the_commit_is_git_s(checkout: Path, tmp_path: Path, form: str) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    where = checkout
    if form == "packed":
        git(checkout, "pack-refs", "--all")
    elif form == "detached":
        git(checkout, "checkout", "-q", "--detach")
    elif form == "work tree":
        where = tmp_path / "other"
        git(checkout, "worktree", "add", "-q", "-b", "two", str(where))
    found = git_head.find(str(where / "a/proto"))
    assert found == git_head.GitHead(commit, str(where), "a/proto")


def test_no_repository_and_no_commit_are_none(tmp_path: Path) -> None:
    assert git_head.find(str(tmp_path)) is None
    git(tmp_path, "init", "-q")
    assert git_head.find(str(tmp_path)) is None
    (tmp_path / ".git/HEAD").write_text("ref: ../../secret\n")
    assert git_head.find(str(tmp_path)) is None
