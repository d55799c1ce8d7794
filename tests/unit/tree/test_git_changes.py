"""Whether a checkout was changed, as git says it; and that git is seldom asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.tree import git_changes
from buildstep.tree.exclude import excluder
from buildstep.tree.proto import scan_proto
from tests.unit.tree.test_git_index import commit, git, home, repository, rest

__all__ = ["home"]
pytestmark = pytest.mark.commands("find", "git")


def told(top: Path) -> bool | None:
    return git_changes.differs(scan_proto(top))


def said(top: Path) -> bool:
    return bool(git(top, "status", "--porcelain", "--", ".").strip())


@pytest.mark.parametrize("inner", ["", "d1"])
@pytest.mark.parametrize("how", ["loose", "packed", "cloned", "work tree", "version 4", "sha256"])
def test_a_checkout_is_as_it_was(tmp_path: Path, how: str, inner: str) -> None:
    options = ["--object-format=sha256"] if how == "sha256" else []
    top = repository(tmp_path / "r", *options)
    (top / "d1/link").symlink_to("f1")
    (top / "d1/run").write_text("#!")
    (top / "d1/run").chmod(0o755)
    commit(top)
    if how == "packed":
        git(top, "gc", "-q")
    if how == "cloned":
        git(tmp_path, "clone", "-q", "--no-local", "r", "other")
        top = tmp_path / "other"
    if how == "work tree":
        git(top, "worktree", "add", "-q", "../other")
        top = tmp_path / "other"
    if how == "version 4":
        git(top, "update-index", "--index-version", "4")
    for _ in range(2):
        assert told(top / inner) is False
        rest(top)


def change(top: Path) -> None:
    (top / "d1/f1").write_text("something else")


def touch(top: Path) -> None:
    os.utime(top / "d1/f1", (1, 1))


def same_size(top: Path) -> None:
    text = (top / "d1/f1").read_text()
    (top / "d1/f1").write_text(text.swapcase())


def remove(top: Path) -> None:
    (top / "d1/f1").unlink()


def mode(top: Path) -> None:
    (top / "d1/f1").chmod(0o755)


def new(top: Path) -> None:
    (top / "d1/new").write_text("a")


def ignored(top: Path) -> None:
    (top / ".git/info/exclude").write_text("new\n")
    new(top)


def staged(top: Path) -> None:
    change(top)
    git(top, "add", "-A")


def staged_elsewhere(top: Path) -> None:
    (top / "d2/f2").write_text("something else")
    git(top, "add", "-A")


def hidden(top: Path) -> None:
    git(top, "update-index", "--assume-unchanged", "d1/f1")
    change(top)


def skipped(top: Path) -> None:
    git(top, "update-index", "--skip-worktree", "d1/f1")
    remove(top)


def intended(top: Path) -> None:
    new(top)
    git(top, "add", "-N", "d1/new")


def filtered(top: Path) -> None:
    (top / ".git/info/attributes").write_text("* filter=x\n")
    git(top, "config", "filter.x.clean", "tr a-z A-Z")
    change(top)


def line_ends(top: Path) -> None:
    git(top, "config", "core.autocrlf", "input")
    (top / "d1/f1").write_bytes((top / "d1/f1").read_bytes().replace(b"\n", b"\r\n"))


def replaced(top: Path) -> None:
    head = git(top, "rev-parse", "HEAD").strip()
    change(top)
    commit(top)
    git(top, "replace", git(top, "rev-parse", "HEAD").strip(), head)


def moved(top: Path) -> None:
    commit(top)
    change(top)
    commit(top)
    git(top, "update-ref", "HEAD", "HEAD~1")


def kind(top: Path) -> None:
    (top / "d1/f1").unlink()
    (top / "d1/f1").symlink_to("f4")


def damaged(top: Path) -> None:
    (top / ".git/objects/pack").rename(top / ".git/objects/gone")


KNOWN: dict[Callable[[Path], None], bool] = {change: True, touch: False, same_size: True, remove: True}


@pytest.mark.parametrize("inner", ["", "d1"])
@pytest.mark.parametrize(
    "how",
    [
        *KNOWN, mode, new, ignored, staged, staged_elsewhere, hidden, skipped, intended, filtered, line_ends,
        replaced, moved, kind,
    ],
)  # fmt: skip
def test_it_never_says_what_git_does_not(tmp_path: Path, how: Callable[[Path], None], inner: str) -> None:
    top = repository(tmp_path / "r")
    rest(top)
    how(top)
    found = told(top / inner)
    assert found == KNOWN.get(how)
    assert found in (None, said(top / inner))


def test_where_objects_cannot_be_read_or_paths_are_left_out_git_is_asked(tmp_path: Path) -> None:
    top = repository(tmp_path / "r")
    assert git_changes.differs(scan_proto(top, exclude=excluder(["*.o"]))) is None
    git(top, "gc", "-q")
    damaged(top)
    assert told(top) is None
    assert told(tmp_path) is None
