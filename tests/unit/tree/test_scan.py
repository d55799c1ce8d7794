"""Walks of trees that somebody else made: what no image can hold is refused, by name, before anything breaks."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import EmitError, ImageError, ToolMissing, UsageError
from buildstep.formats.unpack import unpack
from buildstep.rootfs.cleaners.interface import Cleaning, CleanOptions
from buildstep.rootfs.glob import walk as walk_root
from buildstep.rootfs.leak_check import CiHost
from buildstep.system import process
from buildstep.system.root import Root
from buildstep.tree import proto_limits, proto_watch
from buildstep.tree.entry import LARGEST, LONGEST, PathTooLong
from buildstep.tree.exclude import excluder
from buildstep.tree.proto import scan_proto
from buildstep.tree.scan import scan
from buildstep.tree.stat_index import StatIndex
from tests.unit.trees import deep, deep_place

NESTED = LONGEST // 2 + 100
"""Directories of one letter whose path is too long."""
FITTING = 1100
"""Directories that are deeper than Python can call itself, whose path an image can have."""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with deep_place() as top:
        yield top


def without_find(monkeypatch: pytest.MonkeyPatch) -> None:
    def spawn(argv: list[str], **_: object) -> None:
        raise ToolMissing(f"there is no {argv[0]}")

    monkeypatch.setattr(process, "spawn", spawn)


def test_a_deep_tree_that_an_image_can_hold_is_read(tmp_path: Path) -> None:
    deep(tmp_path / "tree", FITTING)
    assert len(scan(tmp_path / "tree")) == FITTING + 1


@pytest.mark.parametrize("depth", [NESTED, 2500])
def test_a_tree_with_a_path_that_no_image_can_have_is_refused(tmp_path: Path, depth: int) -> None:
    deep(tmp_path / "tree", depth)
    with pytest.raises(
        PathTooLong, match=r"a path of \d+ bytes, and an image can have 3500: d/d/.*\.\.\..*/d$"
    ):
        scan(tmp_path / "tree")


def test_a_pool_far_down_leaves_less(tmp_path: Path) -> None:
    far = tmp_path / "/".join(["x" * 200] * 5)
    deep(far / "tree", 16, name="d" * 200)
    with pytest.raises(PathTooLong, match=f"there is room for {4094 - len(os.fsencode(far / 'tree'))}:"):
        scan(far / "tree")


@pytest.mark.commands("find")
@pytest.mark.parametrize("large", [True, False], ids=["find", "our own walk"])
def test_a_proto_directory_with_such_a_path_is_a_usage_error(
    tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not large:
        without_find(monkeypatch)
    deep(tmp_path / "proto/etc", 2500)
    with pytest.raises(UsageError, match=r"the proto directory has a path of \d+ bytes") as caught:
        scan_proto(tmp_path / "proto", exclude=excluder(()), index=None)
    assert caught.value.hint


@pytest.mark.commands("find")
@pytest.mark.parametrize("large", [True, False], ids=["find", "our own walk"])
def test_what_is_excluded_may_be_of_any_depth(
    tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now, and where it is walked again at the end by the other of the two."""
    if not large:
        without_find(monkeypatch)
    top = tmp_path / "proto"
    deep(top / "cache/far", 20, name="d" * 200)
    deep(top / "letters", 2500)
    (top / "file").touch()
    found = scan_proto(top, exclude=excluder(("/cache", "letters/")), index=None)
    assert list(found.paths) == [b"file"]
    for again in (True, False):
        monkeypatch.setattr(proto_watch, "_LARGE", 0 if again else 10)
        with proto_watch.walking_again(found) as differences:
            assert differences() == []


@pytest.mark.commands("find")
def test_directories_that_cannot_be_read_are_named_unless_they_are_excluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read all: the system's refusal is made up here."""
    real, top = os.scandir, tmp_path / "proto"
    for name in ("open", "shut", "shut-too"):
        (top / name).mkdir(parents=True)

    def scandir(path: Any) -> Any:
        if isinstance(path, bytes) and b"shut" in path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    without_find(monkeypatch)  # it would not be refused
    with pytest.raises(UsageError, match="2 paths that cannot be read") as caught:
        scan_proto(top)
    assert caught.value.detail.splitlines() == ["  shut: Permission denied", "  shut-too: Permission denied"]
    assert "--exclude" in caught.value.hint
    assert set(scan_proto(top, exclude=excluder(("shut*",))).paths) == {b"open"}


@pytest.mark.commands("find")
def test_a_directory_that_is_known_and_cannot_be_read_any_more_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server that answers late: nothing of the directory itself is new."""
    top = tmp_path / "proto"
    (top / "shut").mkdir(parents=True)
    (top / "shut/file").touch()
    index = StatIndex(tmp_path / "state", top)
    time.sleep(0.03)
    found = scan_proto(top, index=index)
    found.read_all()
    found.save(index)
    real = os.scandir

    def scandir(path: Any) -> Any:
        if isinstance(path, bytes) and path.endswith(b"shut"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real(path)

    without_find(monkeypatch)
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UsageError, match="1 path that cannot be read") as caught:
        scan_proto(top, index=index)
    assert caught.value.detail == "  shut: Input/output error"
    with proto_watch.walking_again(found) as differences:
        assert differences() == [("shut", "Input/output error")]


@pytest.mark.commands("find")
def test_files_that_cannot_be_read_are_named_before_any_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files to somebody else")
    real, top = os.access, tmp_path / "proto"
    top.mkdir()
    for name, mode in (("all", 0o644), ("none", 0o000), ("group", 0o640), ("excluded", 0o000)):
        (top / name).touch()
        (top / name).chmod(mode)
        os.chown(top / name, 12, 34)
    asked: list[bytes] = []

    def access(path: Any, *words: Any, **more: Any) -> bool:
        if not isinstance(path, bytes):  # somebody looks for a program
            return real(path, *words, **more)
        asked.append(os.path.basename(path))
        return False

    monkeypatch.setattr(os, "access", access)
    exclude = excluder(("excluded",))
    with pytest.raises(UsageError) as caught:
        scan_proto(top, exclude=exclude)
    assert caught.value.detail.splitlines() == ["  group: Permission denied", "  none: Permission denied"]
    assert sorted(asked) == [b"group", b"none"]


@pytest.mark.commands("find")
def test_a_name_longer_than_an_image_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ZFS can be told to take names of 1023 bytes; here a file system of a shorter limit stands for it."""
    (tmp_path / "proto/a").mkdir(parents=True)
    (tmp_path / "proto/a" / ("n" * 99)).touch()
    monkeypatch.setattr(proto_limits, "NAME_MAX", 98)
    with pytest.raises(UsageError, match="1 name that an image cannot have: over 98 bytes") as caught:
        scan_proto(tmp_path / "proto")
    assert caught.value.detail == f"  a/{'n' * 99}: 99 bytes"


@pytest.mark.parametrize(("most", "limit"), [(143, 135), (255, 255), (1023, 255), (None, 255)])
def test_names_that_the_pools_file_system_can_have(
    monkeypatch: pytest.MonkeyPatch, most: int | None, limit: int
) -> None:
    def pathconf(_path: bytes, _name: str) -> int:
        if most is None:
            raise OSError(errno.EINVAL, "no such limit")
        return most

    monkeypatch.setattr(os, "pathconf", pathconf)
    assert proto_limits.pool_name_max(b"/pool") == limit


def test_walks_of_a_root_go_as_deep_as_an_image_can(tmp_path: Path) -> None:
    deep(tmp_path / "root/var/log", FITTING, files=True)
    assert sum(1 for _ in walk_root(Root(tmp_path / "root"), "/var")) == FITTING
    deep(tmp_path / "far/var/log", 20, name="d" * 200)
    with pytest.raises(PathTooLong):
        list(walk_root(Root(tmp_path / "far"), "/var"))


def test_cleaners_remove_and_measure_what_is_deeper_than_a_path(tmp_path: Path) -> None:
    deep(tmp_path / "root/tmp/deep", 2500, files=True)
    work = Cleaning(Root(tmp_path / "root"), CleanOptions(ci_host=CiHost()))
    work.remove("/tmp/deep")
    assert os.listdir(tmp_path / "root/tmp") == []
    assert work._paths == 1 + 2 * 2500


def test_cleaners_spare_what_came_from_the_proto_directory_however_deep(tmp_path: Path) -> None:
    deep(tmp_path / "root/tmp", FITTING, files=True)
    kept = "/tmp/" + "d/" * FITTING + "kept"
    (tmp_path / "root" / kept.lstrip("/")).touch()
    work = Cleaning(Root(tmp_path / "root"), CleanOptions(ci_host=CiHost(), keep=frozenset((kept,))))
    work.remove("/tmp")
    assert work._paths == FITTING
    assert (tmp_path / "root" / kept.lstrip("/")).exists()


@pytest.mark.commands("find")
def test_a_file_too_large_to_read_is_refused_and_not_read_for_hours(tmp_path: Path) -> None:
    for folder in ("tree", "proto"):
        (tmp_path / folder).mkdir()
        with (tmp_path / folder / "huge").open("wb") as file:
            file.truncate(LARGEST + 1)
    with pytest.raises(EmitError, match=f"huge has {LARGEST + 1} bytes"):
        scan(tmp_path / "tree")
    with pytest.raises(UsageError, match=f"files of {LARGEST + 1} bytes") as caught:
        scan_proto(tmp_path / "proto", exclude=excluder(()), index=None)
    assert "huge" in caught.value.detail


def archive(*names: str) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    stream.seek(0)
    return stream


def test_an_archive_with_a_deep_path_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    name = "d/" * FITTING + "file"
    entries = unpack(archive(name), tmp_path / "tree", privileged=False)
    assert len(entries) == FITTING + 2
    assert (tmp_path / "tree" / name).exists()


def test_an_archive_with_a_path_that_no_image_can_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(ImageError, match="refused") as caught:
        unpack(archive("good", "d/" * 20_000 + "file"), tmp_path / "tree", privileged=False)
    assert "a path of 40004 bytes, and an image can have 3500" in caught.value.detail
    assert len(caught.value.detail) < 500
