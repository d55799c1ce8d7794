"""Files and directories put into a root for the length of a block: what was there comes back."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from buildstep.errors import SandboxError
from buildstep.events import Bus, Event, Note
from buildstep.rootfs.temporary_files import SAVED_SUFFIX, claim, mount_point, temporary_file
from buildstep.system.root import Root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "root/etc").mkdir(parents=True)
    return Root(tmp_path / "root")


def test_the_file_that_was_there_comes_back(root: Root) -> None:
    file = root.path / "etc/resolv.conf"
    file.write_text("old")
    before, folder = file.stat(), file.parent.stat()
    with temporary_file(root, "/etc/resolv.conf", b"new", mode=0o600, bus=Bus()):
        assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o600)
        assert (root.path / f"etc/.resolv.conf{SAVED_SUFFIX}").read_text() == "old"
    assert file.stat().st_ino == before.st_ino
    assert file.parent.stat().st_mtime_ns == folder.st_mtime_ns
    assert os.listdir(file.parent) == ["resolv.conf"]


def test_directories_that_were_made_go_again(root: Root) -> None:
    before = root.path.stat().st_mtime_ns
    with temporary_file(root, "/opt/made/file", b"x", mode=0o644, bus=Bus()):
        assert (root.path / "opt/made/file").read_bytes() == b"x"
    assert os.listdir(root.path) == ["etc"]
    assert root.path.stat().st_mtime_ns == before


def test_what_a_command_wrote_stays_and_is_noted(root: Root) -> None:
    file = root.path / "etc/x"
    file.write_text("old")
    events: list[Event] = []
    with temporary_file(root, "/etc/x", b"new", mode=0o644, bus=Bus(events.append)):
        file.write_text("theirs")
    assert file.read_text() == "theirs"
    assert os.listdir(file.parent) == ["x"]
    assert [event.text for event in events if isinstance(event, Note)] == [
        "/etc/x was replaced by a command in the image; that stays"
    ]


def test_a_directory_or_a_second_saved_file_is_refused(root: Root) -> None:
    with (
        pytest.raises(SandboxError, match="is a directory"),
        temporary_file(root, "/etc", b"", mode=0o644, bus=Bus()),
    ):
        pass
    (root.path / f"etc/.x{SAVED_SUFFIX}").touch()
    with (
        pytest.raises(SandboxError, match="is replaced already"),
        temporary_file(root, "/etc/x", b"", mode=0o644, bus=Bus()),
    ):
        pass


@pytest.mark.parametrize("what", ["absent", "link", "dangling", "file"])
def test_d16_only_a_directory_is_mounted_on(root: Root, what: str) -> None:
    if what == "link":
        (root.path / "mnt").symlink_to("etc")
    elif what == "dangling":
        (root.path / "mnt").symlink_to("/gone")
    elif what == "file":
        (root.path / "mnt").touch()
    with pytest.raises(SandboxError, match="/mnt in the image cannot be mounted on"):
        mount_point(root, "/mnt")


def test_a_claimed_directory_goes_while_it_is_empty(root: Root) -> None:
    with ExitStack() as stack:
        assert claim(stack, root, "/run/a") == root.path / "run/a"
        assert claim(stack, root, "/srv") == root.path / "srv"
        (root.path / "srv/theirs").touch()
    assert sorted(os.listdir(root.path)) == ["etc", "srv"]
