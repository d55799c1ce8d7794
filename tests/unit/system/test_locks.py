"""Locks on files: who is kept out, and when a lock guards nothing."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from buildstep.system import locks
from buildstep.system.locks import holders, lock, take_lock, try_lock


def is_free(path: Path, *, shared: bool = False) -> bool:
    with try_lock(path, shared=shared) as free:
        return free


def test_a_lock_keeps_others_out_until_it_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/lock"
    with lock(path):
        assert not is_free(path)
        assert not is_free(path, shared=True)
    with lock(path, shared=True):
        assert is_free(path, shared=True)
        assert not is_free(path)


def test_a_lock_on_a_removed_file_is_taken_anew(tmp_path: Path) -> None:
    """Whoever held it may remove the file: the next one must not guard a file that nobody sees."""
    path = tmp_path / "lock"
    held = take_lock(path)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(take_lock(path)))
    thread.start()
    path.unlink()
    os.close(held)
    thread.join(5)
    assert os.fstat(got[0]).st_ino == path.stat().st_ino
    assert not is_free(path)
    os.close(got[0])


def test_a_lock_is_never_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "lock").symlink_to(outside / "new")
    with pytest.raises(OSError):
        take_lock(tmp_path / "lock")
    for create in (True, False):
        with pytest.raises(OSError), try_lock(tmp_path / "lock", create=create):
            pytest.fail("a link was followed")
    assert list(outside.iterdir()) == []


def test_a_file_that_must_exist_is_not_made(tmp_path: Path) -> None:
    with try_lock(tmp_path / "lock", create=False) as ours:
        assert not ours
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_is_locked_without_a_right_to_write(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch(mode=0o444)
    with try_lock(path, shared=True, create=False) as ours:
        assert ours
        assert not is_free(path)


def test_a_long_wait_is_told_and_who_has_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.05)
    path = tmp_path / "lock"
    heard: list[str] = []
    with lock(path, tell=heard.append):
        assert heard == []
    held = take_lock(path)

    def tell(text: str) -> None:
        heard.append(text)
        os.close(held)

    with lock(path, tell=tell):
        pass
    (text,) = heard
    assert text.startswith("waiting for ")
    assert text.endswith(f", which has {path} locked")
    if sys.platform == "linux":
        assert f"process {os.getpid()}" in text


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who has a lock")
def test_who_has_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holders(path) == []
    with lock(path):
        assert holders(path) == [os.getpid()]
    assert holders(path) == []
