"""Walks of trees that somebody else made: what no image can hold is refused, by name, before anything breaks."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import EmitError, ImageError, UsageError
from buildstep.formats.unpack import unpack
from buildstep.rootfs.cleaners.interface import Cleaning, CleanOptions
from buildstep.rootfs.glob import walk as walk_root
from buildstep.rootfs.leak_check import CiHost
from buildstep.system.root import Root
from buildstep.tree.entry import LARGEST, LONGEST, PathTooLong
from buildstep.tree.exclude import excluder
from buildstep.tree.proto import scan_proto
from buildstep.tree.scan import scan
from tests.unit.trees import deep, deep_place

NESTED = LONGEST // 2 + 100
"""Directories of one letter whose path is too long."""
FITTING = 1100
"""Directories that are deeper than Python can call itself, whose path an image can have."""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with deep_place() as top:
        yield top


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
    with pytest.raises(PathTooLong, match=f"can have {4094 - len(os.fsencode(far / 'tree'))}:"):
        scan(far / "tree")


@pytest.mark.commands("find")
@pytest.mark.parametrize("large", [True, False], ids=["find", "our own walk"])
def test_a_proto_directory_with_such_a_path_is_a_usage_error(
    tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not large:
        monkeypatch.setenv("PATH", "")
    deep(tmp_path / "proto/etc", 2500)
    with pytest.raises(UsageError, match=r"the proto directory has a path of \d+ bytes") as caught:
        scan_proto(tmp_path / "proto", exclude=excluder(()), index=None)
    assert caught.value.hint


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
