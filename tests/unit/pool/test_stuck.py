"""What cannot be removed: it is named, all else goes, and its pool works on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import DatasetError
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.heal import heal
from buildstep.pool.interface import Kind


@pytest.fixture
def pool(tmp_path: Path) -> DirectoryBackend:
    return DirectoryBackend(os.fspath(tmp_path / "pool"))


def refuse(name: str) -> Callable[..., None]:
    """An `unlink` that leaves files of one name."""
    unlink = os.unlink

    def act(path: Any, *args: Any, **more: Any) -> None:
        if path == name:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, *args, **more)

    return act


def test_one_thing_that_stays_hinders_no_other(
    pool: DirectoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second", "third"):
        (pool.create(name).path / name).touch()
    monkeypatch.setattr(os, "unlink", refuse("second"))
    rows = {row.name: row for row in heal(pool)}
    assert [rows[name].removed for name in ("first", "second", "third")] == [True, False, True]
    assert "build/second/tree/second: Operation not permitted" in rows["second"].problem
    assert "lsattr" in rows["second"].problem
    monkeypatch.undo()
    assert [row.name for row in heal(pool) if row.removed] == ["second"]
    assert pool.idents(Kind.BUILD) == []


def test_an_error_that_nobody_thought_of_hinders_no_other(
    pool: DirectoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        pool.create(name)
    destroy = pool.destroy

    def fail(kind: Kind, ident: str) -> None:
        if ident == "first":
            raise RecursionError("too deep")
        destroy(kind, ident)

    monkeypatch.setattr(pool, "destroy", fail)
    rows = {row.name: row for row in heal(pool)}
    assert not rows["first"].removed
    assert rows["first"].problem == "RecursionError: too deep"
    assert rows["second"].removed


def test_an_image_that_is_half_removed_can_be_made_and_removed_again(
    pool: DirectoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        (pool.create("new").path / "stays").touch()
        pool.keep("new", Kind.IMAGE, "an-image")
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", refuse("stays"))
            with pytest.raises(DatasetError, match=r"cannot remove .*/stays"):
                pool.destroy(Kind.IMAGE, "an-image")
        assert not pool.exists(Kind.IMAGE, "an-image")
    assert len(heal(pool)) == 2
    assert pool.idents(Kind.BUILD) == []


def test_a_journal_that_cannot_be_read_hinders_no_build(pool: DirectoryBackend) -> None:
    pool.create("left")
    (pool.state / "journal/20260101T000000-00000000.jsonl").mkdir(parents=True)
    rows = {row.kind: row for row in heal(pool)}
    assert rows["journal"].removed
    assert rows["dataset"].name == "left"
    assert heal(pool) == []
