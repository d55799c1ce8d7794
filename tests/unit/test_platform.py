"""illumos as far as it can be seen from here: the commands, their order, and what is undone when one fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep import platform
from buildstep.errors import DatasetError, SandboxError
from buildstep.fsutil import Root

FAKE = """#!/bin/sh
echo "${0##*/} $*" >>"$LOG"
case "${0##*/} $*" in "$FAIL"*) echo "no such thing" >&2; exit 33;; esac
[ "${0##*/}" = zonename ] && echo "$ZONE"
exit 0
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mount, umount and zonename that only write down how they were called."""
    folder = tmp_path / "tools"
    folder.mkdir()
    log = tmp_path / "log"
    log.touch()
    for name in ("mount", "umount", "zonename"):
        (folder / name).write_text(
            FAKE.replace("$LOG", str(log)).replace("$FAIL", "none").replace("$ZONE", "agent-1")
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return log


def failing(tools: Path, command: str) -> None:
    for name in ("mount", "umount"):
        path = tools.parent / "tools" / name
        path.write_text(FAKE.replace("$LOG", str(tools)).replace("$FAIL", command))


def test_loopbacks_in_order_and_back(tools: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    noted: list[Path] = []
    with platform.loopback_mounts(Root(root), platform.ILLUMOS.loopbacks, note=noted.append):
        assert sorted(os.listdir(root)) == ["dev", "lib", "proc", "sbin", "usr"]
    assert tools.read_text().splitlines() == [
        *(f"mount -F lofs -r /{name} {root}/{name}" for name in ("dev", "lib", "proc", "sbin", "usr")),
        *(f"umount {root}/{name}" for name in ("usr", "sbin", "proc", "lib", "dev")),
    ]
    assert noted == [root / name for name in ("dev", "lib", "proc", "sbin", "usr")]
    assert os.listdir(root) == ["usr"]  # what was there before stays, what was made for the mounts goes


def test_one_that_fails_undoes_the_others(tools: Path, tmp_path: Path) -> None:
    """The original leaves four mounts behind, and the clone busy (D4)."""
    root = tmp_path / "root"
    root.mkdir()
    failing(tools, "mount -F lofs -r /proc")
    mounts = platform.loopback_mounts(Root(root), platform.ILLUMOS.loopbacks)
    with pytest.raises(SandboxError, match="mounting /proc") as caught, mounts:
        pytest.fail("the block must not be entered")
    assert "no such thing" in caught.value.detail
    assert tools.read_text().splitlines()[3:] == [f"umount {root}/lib", f"umount {root}/dev"]
    assert os.listdir(root) == []


def test_link_in_the_image_leads_nowhere_else(tools: Path, tmp_path: Path) -> None:
    """D16: a link planted in the base image must not choose where the agent mounts."""
    root = tmp_path / "root"
    (root / "system").mkdir(parents=True)
    (root / "usr").symlink_to("/system")
    with platform.loopback_mounts(Root(root), ["/usr"]):
        pass
    assert tools.read_text().splitlines()[0] == f"mount -F lofs -r /usr {root}/system"


def test_busy_mount_is_forced(tools: Path) -> None:
    failing(tools, "umount /x")
    platform.unmount(Path("/x"))
    assert tools.read_text().splitlines() == ["umount /x", "umount -f /x"]


def test_dataset(tools: Path) -> None:
    platform.mount_dataset("zones/a/data/x", Path("/m"))
    platform.mount_dataset("zones/a/data/x@final", Path("/m"), read_only=True)
    assert tools.read_text().splitlines() == [
        "mount -F zfs zones/a/data/x /m",
        "mount -F zfs -r zones/a/data/x@final /m",
    ]


def test_zone(tools: Path) -> None:
    assert platform.delegated_dataset(platform.zone_name()) == "zones/agent-1/data"
    path = tools.parent / "tools/zonename"
    path.write_text(path.read_text().replace("agent-1", "global"))
    with pytest.raises(DatasetError, match="global zone"):
        platform.zone_name()


@pytest.mark.parametrize(
    ("version", "stamp"),
    [
        ("joyent_20210826T002459Z", "20210826T002459Z"),
        ("joyent_20210826T002459Z_debug", None),
        ("omnios-r151038-f5e2d58fb2", None),
        ("#1 SMP Debian 6.1.0-13", None),
        ("joyent_20211326T002459Z", None),
        ("", None),
    ],
)
def test_stamp(version: str, stamp: str | None) -> None:
    assert platform.platform_stamp(version) == stamp
    uname = os.uname_result(("SunOS", "host", "5.11", version, "i86pc"))
    assert platform.min_platform(uname) == ({"7.0": stamp} if stamp else {})
    assert platform.min_platform(uname, "8.1") == ({"8.1": stamp} if stamp else {})


def test_linux_has_no_stamp() -> None:
    uname = os.uname_result(("Linux", "host", "6.1", "joyent_20210826T002459Z", "x86_64"))
    assert platform.min_platform(uname) == {}
    assert platform.here() is platform.LINUX
