"""A base image and a proto directory are attackers too: what they hold leads the build to nothing of the host.

Single archives and links are tried by tests/unit/formats/test_unpack.py and tests/integration/test_build.py.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import demand
from tests.integration.support import Lab, host_state, write_base
from tests.walls.canaries import Canaries
from tests.walls.scene import quick_folder

NAME = "base"
Plant = Callable[[tarfile.TarFile, str], None]


@pytest.fixture
def top() -> Iterator[Path]:
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    with quick_folder() as folder:
        yield folder


def link(tar: tarfile.TarFile, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    tar.addfile(member)


def file(tar: tarfile.TarFile, name: str, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.mode = mode
    tar.addfile(member)


def node(tar: tarfile.TarFile, name: str, kind: bytes, major: int, minor: int) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.devmajor, member.devminor, member.mode = kind, major, minor, 0o666
    tar.addfile(member)


def parents(tar: tarfile.TarFile, folder: str) -> None:
    link(tar, "far", folder)
    file(tar, "far/made")


def climbing_parents(tar: tarfile.TarFile, folder: str) -> None:
    link(tar, "far", "../" * 12 + folder.lstrip("/"))
    file(tar, "far/made")


def dots(tar: tarfile.TarFile, folder: str) -> None:
    file(tar, "../" * 12 + folder.lstrip("/") + "/made")


def absolute(tar: tarfile.TarFile, folder: str) -> None:
    file(tar, f"{folder}/made")
    file(tar, f"/{folder}/made")


def hard_links(tar: tarfile.TarFile, folder: str) -> None:
    link(tar, "etc/stolen", f"{folder}/secret", tarfile.LNKTYPE)
    link(tar, "etc/stolen-too", "../" * 12 + folder.lstrip("/") + "/secret", tarfile.LNKTYPE)


def linked_hard_links(tar: tarfile.TarFile, folder: str) -> None:
    link(tar, "far", folder)
    link(tar, "etc/stolen", "far/secret", tarfile.LNKTYPE)


def places_of_the_build(tar: tarfile.TarFile, folder: str) -> None:
    """Links where the build mounts and puts its temporary files."""
    for name in (
        "proc",
        "dev",
        "run/x",
        "etc/resolv.conf",
        "usr/sbin/policy-rc.d",
        "etc/hosts",
        "etc/machine-id",
    ):
        link(tar, name, folder if name in {"proc", "dev"} else f"{folder}/secret")


def programs(tar: tarfile.TarFile, folder: str) -> None:
    """Devices, setuid files and a preload that the image's programs, and ours, would meet."""
    node(tar, "dev/sda", tarfile.BLKTYPE, 8, 0)
    node(tar, "etc/loop", tarfile.BLKTYPE, 7, 0)
    node(tar, "etc/mem", tarfile.CHRTYPE, 1, 1)
    node(tar, "etc/resolv.conf", tarfile.CHRTYPE, 1, 3)
    node(tar, "var/log/pipe", tarfile.FIFOTYPE, 0, 0)
    file(tar, "usr/bin/root-for-all", 0o6755)
    link(tar, "etc/ld.so.preload", f"{folder}/secret")
    link(tar, "usr/lib/locale", folder)


BASES: dict[str, tuple[Plant, bool | None]] = {
    "parents": (parents, True),  # followed inside the root, as a chroot does
    "climbing parents": (climbing_parents, False),
    "dots": (dots, False),
    "absolute": (absolute, True),  # taken from the root, as runtimes do
    "hard links": (hard_links, False),
    "linked hard links": (linked_hard_links, False),
    "places of the build": (places_of_the_build, None),
    "programs": (programs, True),
}
"""What is planted, and whether a build of it works (None: either way will do)."""


@pytest.mark.parametrize("name", BASES)
def test_a_base_image_touches_nothing_outside(top: Path, name: str) -> None:
    plant, works = BASES[name]
    with Canaries(top / "canary", [NAME]) as canaries:
        folder = os.fspath(canaries.folder(NAME))
        base = write_base(top / "base.tar", lambda tar: plant(tar, folder))
        lab = Lab(top=top, base=base)
        before = host_state(top)
        done = lab.build("-f", "tar", "-p", "one-1", "-M", "-S", "http://x")
        assert host_state(top) == before
    assert canaries.found(NAME) == []
    assert "Traceback" not in done.stderr
    assert works is None or (done.status == 0) is works, done.stderr
    assert lab.leftovers() == []


def test_a_proto_directory_leads_nowhere(top: Path) -> None:
    """Links to the host, pipes, sockets, odd names and devices in it are data of the image."""
    with Canaries(top / "canary", [NAME]) as canaries:
        folder = canaries.folder(NAME)
        lab = Lab(top=top, base=write_base(top / "base.tar"))
        (lab.proto / "etc/resolv.conf").symlink_to(folder / "secret")
        (lab.proto / "etc/machine-id").symlink_to(folder / "secret")
        (lab.proto / "data").symlink_to(folder)
        (lab.proto / "var/log").mkdir(parents=True)
        (lab.proto / "var/log/x.log").symlink_to(folder / "secret")
        (lab.proto / "var/cache").symlink_to(folder)
        os.mkfifo(lab.proto / "etc/pipe")
        os.mknod(lab.proto / "etc/loop", 0o60666, os.makedev(7, max(canaries.minor, 0)))
        for number, odd in enumerate(("-rf", "new\nline", "\x1b[31m", "$(touch made)", "*", "x" * 255)):
            (lab.proto / "etc" / odd).write_text(str(number))
        done = lab.build("-f", "tar", "-p", "one-1")
    assert canaries.found(NAME) == []
    assert canaries.disk_is_whole
    assert "\x1b" not in done.stderr + done.stdout
    assert done.status == 0, done.stderr
    assert lab.leftovers() == []
