"""The wall of a pool: modes whatever the umask, older pools closed, pools of others refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import DatasetError
from buildstep.pool import journal, privacy
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.interface import Kind
from buildstep.pool.journal import open_journal
from buildstep.system.files import atomic_write, write_json
from buildstep.system.locks import lock
from buildstep.system.private import private_dir


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["umask 000", "umask 022", "umask 077"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(top: Path) -> list[str]:
    """What of a pool others could enter or read if its top were open, but for the trees of datasets."""
    found = []
    for folder, folders, files in os.walk(top):
        if Path(folder).name == "tree":
            folders.clear()
            continue
        paths = [Path(folder), *(Path(folder) / name for name in files)]
        found += [os.path.relpath(path, top) for path in paths if mode(path) & 0o077 and path.name != "tree"]
    return found


def used(top: Path) -> DirectoryBackend:
    """A pool in which a bit of everything was written."""
    pool = DirectoryBackend(os.fspath(top))
    with open_journal(pool.state, "a build") as opened:
        opened.folder(pool.state / "work" / opened.ident)
        data = pool.create(opened.dataset(f"{opened.ident}-1"))
        (data.path / "su").touch(mode=0o755)
        (data.path / "su").chmod(0o4755)
        pool.snapshot(data, Kind.IMAGE, "an-image")
        pool.create(opened.dataset(f"{opened.ident}-2"))
        journal.keep(pool, f"{opened.ident}-2")
        with lock(pool.state / "locks" / "one.lock"):
            private_dir(pool.state / "artifacts")
            write_json(pool.state / "artifacts" / "x.json", {})
        with atomic_write(pool.state / "artifacts" / "y") as stream:
            stream.write(b"y")
    return pool


def opened_up(pool: DirectoryBackend) -> None:
    """Give a pool the modes that pools had before they were private."""
    for folder, _, files in os.walk(pool.path):
        os.chmod(folder, 0o755)
        for name in files:
            if name not in ("su", "buildstep-pool.json"):
                os.chmod(Path(folder) / name, 0o644)


def test_nobody_else_may_enter_a_new_pool_or_read_what_is_in_it(tmp_path: Path, umask: int) -> None:
    pool = used(tmp_path / "far/pool")
    assert mode(pool.wall) == 0o700
    assert open_to_others(pool.path) == []
    assert mode(pool.tree_of(Kind.IMAGE, "an-image")) == 0o755  # an image's own, whatever the umask
    assert privacy.others_may(pool.wall) == ""


def test_an_empty_directory_that_was_given_is_closed(tmp_path: Path, umask: int) -> None:
    (tmp_path / "given").mkdir()
    assert privacy.mend(DirectoryBackend(os.fspath(tmp_path / "given"))) == ""
    assert mode(tmp_path / "given") == 0o700
    pool = used(tmp_path / "given")
    assert mode(pool.wall) == 0o700


def test_an_older_pool_is_closed_once_and_that_is_told(tmp_path: Path) -> None:
    pool = used(tmp_path / "pool")
    opened_up(pool)
    assert "others may enter it (mode 0755)" in privacy.others_may(pool.wall)
    said = privacy.mend(DirectoryBackend(os.fspath(pool.path)))
    assert "was made private: others may enter it (mode 0755)" in said
    assert open_to_others(pool.path) == []
    assert mode(pool.tree_of(Kind.IMAGE, "an-image") / "su") == 0o4755
    assert privacy.mend(pool) == ""


def test_a_layer_that_anybody_may_read_stays_as_it_is(tmp_path: Path) -> None:
    """It may have a second name in an image; one that was touched would be read again before it is used."""
    pool = used(tmp_path / "pool")
    opened_up(pool)
    (pool.state / "blobs").mkdir(mode=0o755, exist_ok=True)
    layer = pool.state / "blobs/layer"
    layer.write_bytes(b"layer")
    layer.chmod(0o444)
    before = layer.lstat()
    assert privacy.mend(pool)
    assert layer.lstat() == before
    assert mode(pool.state / "blobs") == 0o700


def test_a_closed_pool_is_only_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = used(tmp_path / "pool")
    assert privacy.mend(pool) == ""
    monkeypatch.setattr(os, "scandir", None)
    assert privacy.mend(pool) == ""


def test_a_wall_that_was_opened_again_is_closed_again(tmp_path: Path) -> None:
    pool = used(tmp_path / "pool")
    privacy.mend(pool)
    pool.path.chmod(0o750)
    assert "(mode 0750)" in privacy.mend(pool)
    assert mode(pool.wall) == 0o700


def test_a_pool_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert privacy.mend(DirectoryBackend(os.fspath(tmp_path / "pool"))) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_pool_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    pool = used(tmp_path / "pool")
    pool.path.chmod(0o707)
    with pytest.raises(
        DatasetError, match=r"others may write to the pool .*0707.*cannot be trusted"
    ) as caught:
        DirectoryBackend(os.fspath(pool.path))
    assert f"chmod 0700 {pool.path}" in caught.value.hint


def test_what_the_user_s_own_group_may_write_to_is_closed_and_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = used(tmp_path / "pool")
    pool.path.chmod(0o770)
    monkeypatch.setattr(privacy, "_is_own_group", lambda _gid: False)
    with pytest.raises(DatasetError, match="others may write"):
        DirectoryBackend(os.fspath(pool.path))
    monkeypatch.undo()
    monkeypatch.setattr(privacy, "_is_own_group", lambda _gid: True)
    assert "(mode 0770)" in privacy.mend(DirectoryBackend(os.fspath(pool.path)))


def test_a_pool_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = used(tmp_path / "pool")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(DatasetError, match=r"belongs to .*, and this is uid 54321") as caught:
        privacy.refuse_foreign(pool.wall, pool.uri)
    assert "--pool" in caught.value.hint


def test_a_private_directory_is_not_made_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        private_dir(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        private_dir(tmp_path / "file/below")


def test_a_directory_where_none_can_be_made_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="/proc/nope"):
        private_dir(Path("/proc/nope/below"))
