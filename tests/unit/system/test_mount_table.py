"""The table of mounts, read from tables of our own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.pool import zfs_holders
from buildstep.system import host, mount_table

LINUX = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /proc rw shared:5 - proc proc rw
41 22 0:40 / /mnt/my\040images rw shared:7 master:1 - zfs tank/my\040images rw,xattr
42 22 0:41 / /mnt/my\040images rw - zfs zones/back\134slash rw
43 41 0:42 / /mnt/my\040images/in\011side rw - tmpfs  rw
44 22 0:43 / /mnt/my\040imagesbeside rw - zfs tank/my\040images rw
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc of our own, with one process."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(LINUX)
    monkeypatch.setattr(mount_table, "PROC", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("table")
def test_escapes_are_undone_in_source_and_point() -> None:
    assert mount_table.mounts()[2:5] == [
        mount_table.Mount("tank/my images", "/mnt/my images", "/", "zfs", "rw,xattr"),
        mount_table.Mount("zones/back\\slash", "/mnt/my images", "/", "zfs", "rw"),
        mount_table.Mount("", "/mnt/my images/in\tside", "/", "tmpfs", "rw"),
    ]


@pytest.mark.usefixtures("table")
def test_mount_points_at_or_below_a_path_last_first() -> None:
    inside = "/mnt/my images/in\tside"
    assert mount_table.mount_points("/mnt/my images") == [inside, "/mnt/my images", "/mnt/my images"]
    assert len(mount_table.mount_points("/")) == 6


@pytest.mark.usefixtures("table")
def test_source_of_the_topmost_mount_at_a_path_with_a_space() -> None:
    """The pool asks this to know whether its state is mounted: it was taken for not mounted, and mounted again."""
    assert mount_table.source_at("/mnt/my images") == "zones/back\\slash"
    assert mount_table.source_at("/mnt/my imagesbeside") == "tank/my images"
    assert mount_table.source_at("/mnt") == ""


def test_who_has_a_source_mounted(table: Path) -> None:
    assert zfs_holders.mounts_of(["tank/my images"]) == ["/mnt/my imagesbeside", "/mnt/my images"]
    with pytest.raises(FileNotFoundError):
        mount_table.mounts("999")


def test_a_name_that_is_not_utf_8(table: Path) -> None:
    row = b"22 1 254:0 / /mnt/\xff\\040x rw - ext4 /dev/vda rw\n"
    (table / "self/mountinfo").write_bytes(row)
    assert os.fsencode(mount_table.mounts()[0].point) == b"/mnt/\xff x"


def test_own_table_of_this_machine() -> None:
    if host.HERE is host.LINUX:
        assert "/proc" in mount_table.mount_points("/")
