"""A store in a directory: what the contract of all stores does not say of it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.errors import StoreError, UsageError
from buildstep.events import Bus
from buildstep.files import open_storage
from buildstep.files.interface import Access, ReadOnly, Storage, checked, checked_under
from buildstep.files.local import Local
from buildstep.system import locks


@pytest.fixture
def store(tmp_path: Path) -> Local:
    found: Storage = open_storage(f"dir:{tmp_path}/store", environ={})
    assert isinstance(found, Local)
    return found


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "a/.b", "-rf", "a b", "a\n", "ä", "a'b"],
)
def test_names_that_no_blob_can_have(name: str, store: Local, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("outside")
    calls: list[Callable[[], object]] = [
        lambda: store.read(name),
        lambda: store.load(name),
        lambda: store.delete([name]),
        lambda: store.exists([name]),
        lambda: store.write(name, b""),
        lambda: store.swap(name, b"", None),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="no name of a blob"):
            call()
    assert (tmp_path / "x").read_text() == "outside"


def test_names_of_ours_are_allowed() -> None:
    for name in ("objects/ab/" + "0" * 62 + ".zst", "refs/web~1.2.0", "buildstep-store.json", "tmp/probe"):
        assert checked(name) == name
    assert checked_under("") == ""
    assert checked_under("refs/") == "refs/"
    with pytest.raises(StoreError):
        checked_under("refs")


def test_what_is_being_written_is_in_no_listing(store: Local) -> None:
    store.swap("refs/a", b"1", None)
    with store.spool() as spool:
        (spool / "pack").write_bytes(b"half")
        assert [item.name for item in store.list("")] == ["refs/a"]
    assert [path.name for path in (store.root / "tmp").iterdir()] == ["swap.lock"]


def test_a_value_that_is_being_set_lies_in_tmp(store: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    store.swap("refs/a", b"1", None)
    monkeypatch.setattr("buildstep.files.local.write_all", killed)
    with pytest.raises(KeyboardInterrupt):
        store.swap("refs/a", b"2", store.load("refs/a").version)  # type: ignore[union-attr]
    assert os.listdir(store.root / "refs") == ["a"]
    assert store.read("refs/a") == b"1"


def test_a_spool_that_a_sweeper_takes_for_a_dead_one(store: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = locks.lock_directory, []

    def too_late(path: Path) -> int | None:
        calls.append(path)
        if len(calls) == 1:
            shutil.rmtree(path)
        if len(calls) == 2:
            return None  # it has it locked at this moment
        return real(path)

    monkeypatch.setattr("buildstep.files.local.lock_directory", too_late)
    with store.spool() as spool:
        assert len(calls) == 3
        assert spool.is_dir()
        (spool / "x").write_bytes(b"x")
        assert store.write("packs/x", spool / "x")
    assert not spool.exists()


def test_what_dead_writers_left_is_swept(store: Local) -> None:
    store.write("a", b"")
    (store.root / "tmp/1.2.3").mkdir()
    (store.root / "tmp/1.2.4").write_bytes(b"half")
    again = Local(os.fspath(store.root), store_access())
    with store.spool() as living:
        again.write("b", b"")
        assert sorted(path.name for path in (store.root / "tmp").iterdir()) == [living.name]


def store_access() -> Access:
    return Access(environ={}, bus=Bus())


def test_modes(store: Local) -> None:
    old = os.umask(0)
    try:
        store.write("objects/ab/x", b"secret")
    finally:
        os.umask(old)
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert stat.S_IMODE((store.root / "objects/ab").stat().st_mode) == 0o755
    assert stat.S_IMODE((store.root / "objects/ab/x").stat().st_mode) == 0o444


def test_a_directory_that_others_may_write_to(store: Local) -> None:
    store.root.mkdir()
    store.root.chmod(0o777)
    assert not store.writable
    with pytest.raises(ReadOnly, match="others may write"):
        store.write("a", b"")


def test_a_pipe_is_not_waited_for(store: Local) -> None:
    store.write("objects/ab/x", b"")
    os.mkfifo(store.root / "objects/ab/pipe")
    assert store.exists(["objects/ab/pipe"]) == set()
    with pytest.raises(StoreError, match="no regular file"):
        store.read("objects/ab/pipe")


def test_a_name_that_is_too_long_for_the_file_system(store: Local) -> None:
    store.write("a", b"")
    with pytest.raises(StoreError, match="cannot look at"):
        store.exists(["x" * 300])


# -- links in the place of directories -----------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["objects", "objects/ab", "files/a/b", "tmp"])
def test_a_link_in_the_place_of_a_directory_leads_nowhere(folder: str, store: Local, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "ab").mkdir(parents=True)
    (outside / "kept").write_text("outside")
    (outside / "ab/kept").write_text("outside")
    name = f"{folder}/kept"
    link = store.root / folder
    link.parent.mkdir(parents=True)
    store.root.chmod(0o700)
    link.symlink_to(outside)
    calls: list[Callable[[], object]] = [
        lambda: store.exists([name]),
        lambda: store.exists(["x/y", f"{folder}/ab/kept"]),
        lambda: list(store.list(f"{folder}/")),
        lambda: list(store.list(f"{folder}/ab/")),
        lambda: store.read(name),
        lambda: store.read(f"{folder}/ab/kept"),
        lambda: store.load(name),
        lambda: store.fetch(name, tmp_path / "copy"),
        lambda: store.write(f"{folder}/new", b"x"),
        lambda: store.write(f"{folder}/new/deeper", b"x"),
        lambda: store.write(name, b"x"),
        lambda: store.delete([name]),
        lambda: store.swap(name, b"x", None),
        lambda: store.swap(name, None, None),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=rf"{folder} is a link where a directory of the store should be"):
            call()
    assert sorted(os.listdir(outside)) == ["ab", "kept"]
    assert os.listdir(outside / "ab") == ["kept"]
    assert (outside / "kept").read_text() == "outside"
    assert list(store.list("")) == [], "what is behind it is in no listing"


def test_the_top_of_a_store_can_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "store").symlink_to("real")
    found = open_storage(f"dir:{tmp_path}/store", environ={})
    assert found.write("objects/ab/x", b"1")
    assert found.exists(["objects/ab/x", "objects/cd/x"]) == {"objects/ab/x"}
    assert (tmp_path / "real/objects/ab/x").read_bytes() == b"1"


def test_each_directory_is_looked_at_once(store: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"objects/{number % 4:02}/{number:04}" for number in range(400)]
    for name in names:
        store.write(name, b"")
    looks: list[str] = []
    real = os.lstat

    def counted(path: str) -> os.stat_result:
        looks.append(path)
        return real(path)

    monkeypatch.setattr(os, "lstat", counted)
    fresh = open_storage(store.url, environ={})
    assert fresh.exists(names) == set(names)
    assert len(looks) == len(names) + 5


def test_a_file_in_the_place_of_a_directory(store: Local) -> None:
    store.write("objects", b"")
    assert store.exists(["objects/ab/x"]) == set()
    with pytest.raises(StoreError, match="Not a directory"):
        store.write("objects/ab/x", b"")


def test_a_value_that_is_not_there_can_be_removed_from_a_new_store(store: Local) -> None:
    assert store.swap("refs/value", None, None)
    assert not store.swap("refs/value", None, "0" * 64)


@pytest.mark.parametrize("call", ["list", "exists", "read", "load"])
def test_a_file_in_the_place_of_a_store_is_no_empty_store(call: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = open_storage(f"dir:{tmp_path}/file")
    calls: dict[str, Callable[[], object]] = {
        "list": lambda: list(store.list("")),
        "exists": lambda: store.exists(["objects/a"]),
        "read": lambda: store.read("objects/a"),
        "load": lambda: store.load("buildstep.json"),
    }
    with pytest.raises(StoreError, match="file is no directory"):
        calls[call]()
    assert list(open_storage(f"dir:{tmp_path}/none").list("")) == []


def test_a_store_of_an_unknown_kind_is_told_without_its_password() -> None:
    with pytest.raises(UsageError, match="no store of the kind 'ftp': 'ftp://host/x'") as caught:
        open_storage("ftp://me:secret@host/x")
    assert "secret" not in f"{caught.value} {caught.value.detail} {caught.value.hint}"
