"""Removal of what others made: any depth, few descriptors, and what cannot go is named."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import DatasetError
from buildstep.system.remove import remove_tree
from buildstep.system.root import Root
from buildstep.system.text import shown_path
from tests.unit.trees import deep, deep_place

DEPTH = 3_000


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with deep_place() as top:
        yield top


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """No more than a hundred may be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 50, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    deep(tmp_path / "tree", DEPTH, files=True)
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("few_descriptors")
def test_a_root_removes_a_directory_of_any_depth(tmp_path: Path) -> None:
    deep(tmp_path / "root/tmp", DEPTH // 10, files=True)
    Root(tmp_path / "root").remove("/tmp")
    assert os.listdir(tmp_path / "root") == []


@pytest.mark.usefixtures("few_descriptors")
def test_branches_are_removed_on_the_way_up(tmp_path: Path) -> None:
    """Directories above those that are held are opened again, again and again."""
    top = tmp_path / "tree"
    deep(top, 200)
    for number in range(0, 200, 7):
        below = top / "/".join(["d"] * number)
        deep(below / "other", 100, files=True)
    remove_tree(top)
    assert list(tmp_path.iterdir()) == []


def test_all_goes_but_what_cannot_and_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/gone", "b/stays", "b/gone", "c/d/e/stays", "c/d/gone"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).touch()
    unlink = os.unlink

    def refuse(path: Any, *args: Any, **more: Any) -> None:
        if path == "stays":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, *args, **more)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(
        DatasetError, match=r"^cannot remove .*/stays: Operation not permitted, and 1 more$"
    ) as caught:
        remove_tree(tmp_path / "tree")
    monkeypatch.undo()
    assert "b/stays: Operation not permitted" in caught.value.detail
    assert "c/d/e/stays: Operation not permitted" in caught.value.detail
    assert "lsattr" in caught.value.hint
    left = sorted(os.path.relpath(path, tmp_path / "tree") for path in (tmp_path / "tree").rglob("*"))
    assert left == ["b", "b/stays", "c", "c/d", "c/d/e", "c/d/e/stays"]


def test_a_thousand_things_that_stay_are_counted_and_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(1000):
        (tmp_path / "tree" / str(number)).touch()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(DatasetError, match=", and 999 more") as caught:
        remove_tree(tmp_path / "tree")
    monkeypatch.undo()
    assert len(caught.value.detail.splitlines()) == 11
    assert "and 990 more" in caught.value.detail


def test_a_directory_that_is_moved_away_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going up by `..` must not lead into a tree that is not the one to remove."""
    deep(tmp_path / "tree", 100)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious").touch()
    rmdir = os.rmdir
    moved: list[bool] = []

    def move(*args: Any, **more: Any) -> None:
        if not moved:
            moved.append(True)
            os.rename(tmp_path / "tree" / "/".join(["d"] * 50), tmp_path / "elsewhere/d")
        rmdir(*args, **more)

    monkeypatch.setattr(os, "rmdir", move)
    remove_tree(tmp_path / "tree")
    assert (tmp_path / "elsewhere/precious").exists()
    assert not (tmp_path / "tree").exists()


def test_a_long_path_is_shown_short_and_on_one_line() -> None:
    text = shown_path(b"/".join([b"a\nb"] * 5000))
    assert len(text) < 250
    assert text.startswith("a?b/a?b")
    assert "..." in text
    assert text.endswith("/a?b")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to change the user")
def test_a_user_removes_directories_that_keep_even_their_owner_out() -> None:
    top = Path(tempfile.mkdtemp(prefix="buildstep-test-", dir="/var/tmp"))
    try:
        for mode in (0o000, 0o100, 0o200, 0o400, 0o500, 0o600):
            folder = top / "tree" / f"{mode:o}"
            (folder / "below").mkdir(parents=True)
            (folder / "file").touch()
            folder.chmod(mode)
        assert as_a_user(top, lambda: remove_tree(top / "tree")) == 0
        assert os.listdir(top) == []
    finally:
        remove_tree(top)


def as_a_user(top: Path, job: Callable[[], None]) -> int:
    """Do it in a process of a user without rights, who owns `top` and all in it; returns its status."""
    for folder, folders, files in os.walk(top, topdown=False):
        for name in (*folders, *files, "."):
            if os.geteuid() == 0:
                os.chown(Path(folder) / name, 65534, 65534)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            job()
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1]
