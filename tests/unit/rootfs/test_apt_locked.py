"""Package files of a lock: where they are looked for, what is told of those that are gone, and their index."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.errors import InstallError, LockError
from buildstep.events import Bus
from buildstep.rootfs.installers import apt_locked, apt_simulation
from buildstep.rootfs.installers.apt_archives import ArchiveStore
from buildstep.rootfs.installers.apt_sources import Sources
from buildstep.rootfs.installers.deb_file import control_of
from buildstep.rootfs.interface import Resolution
from buildstep.spec.lock import Asked, Lock, LockedBase, LockedPackage


def deb(control: str) -> bytes:
    """A package file that has a control file, and no more."""
    inner, outer = io.BytesIO(), b"!<arch>\n"
    with tarfile.open(fileobj=inner, mode="w") as tar:
        member = tarfile.TarInfo("./control")
        member.size = len(control)
        tar.addfile(member, io.BytesIO(control.encode()))
    for name, data in (("debian-binary", b"2.0\n"), ("control.tar", inner.getvalue())):
        outer += (
            f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(data):<10}`\n".encode()
            + data
            + b"\n" * (len(data) % 2)
        )
    return outer


DATA = deb("Package: alpha\nVersion: 1:1.0\nArchitecture: all\nPriority: optional\nDescription: a\n b\n\n")
ROW = LockedPackage(
    name="alpha", version="1:1.0", arch="all", sha256=hashlib.sha256(DATA).hexdigest(), size=len(DATA),
    file="pool/main/alpha_1.0_all.deb", repository="http://deb.debian.org/debian",
)  # fmt: skip
NAME = "alpha_1%3a1.0_all.deb"


@pytest.fixture
def supply(tmp_path: Path) -> apt_locked.Supply:
    for name in ("shown", "downloads"):
        (tmp_path / name).mkdir()
    return apt_locked.Supply(
        lock="m.lock.json", date="20260102T030405Z", store=ArchiveStore(tmp_path / "cache", Bus()),
        shown=tmp_path / "shown", downloads=tmp_path / "downloads",
    )  # fmt: skip


def test_places_are_asked_in_order_and_what_is_wrong_is_not_taken(supply: apt_locked.Supply) -> None:
    asked: list[str] = []

    def download(wanted: Mapping[Path, str]) -> None:
        for target, uri in wanted.items():
            asked.append(uri)
            if "other" in uri:
                target.write_bytes(b"other" + DATA[5:])
            elif "dated" in uri:
                target.write_bytes(DATA)

    full = replace(
        supply, mirror="http://other/debian/", snapshot="http://dated/{archive}/{date}/", download=download
    )
    apt_locked.have([ROW], full)
    assert asked == [
        "http://other/debian/pool/main/alpha_1.0_all.deb",
        "http://deb.debian.org/debian/pool/main/alpha_1.0_all.deb",
        "http://dated/debian/20260102T030405Z/pool/main/alpha_1.0_all.deb",
    ]
    assert (supply.shown / NAME).read_bytes() == DATA
    # It is kept, and nobody is asked again.
    (supply.shown / NAME).unlink()
    asked.clear()
    apt_locked.have([ROW], full)
    assert asked == []


def test_what_is_gone_is_named_with_where_it_was_looked_for(
    supply: apt_locked.Supply, tmp_path: Path
) -> None:
    with pytest.raises(
        LockError, match=r"m\.lock\.json names package files that are gone: alpha 1:1\.0"
    ) as caught:
        apt_locked.have(
            [ROW], replace(supply, snapshot=f"file://{tmp_path}/dated", download=lambda _wanted: None)
        )
    for told in (
        ROW.sha256,
        ROW.uri,
        f"the package cache {tmp_path}/cache/debs",
        f"the dated mirror file://{tmp_path}",
    ):
        assert told in caught.value.detail
    with pytest.raises(LockError) as caught:
        apt_locked.have([ROW] * 5, supply)
    assert "and 2 more" in caught.value.message
    assert "for want of a network" in caught.value.hint


def test_a_dated_mirror_may_be_a_directory(supply: apt_locked.Supply, tmp_path: Path) -> None:
    there = tmp_path / "dated" / ROW.file
    there.parent.mkdir(parents=True)
    there.write_bytes(DATA)
    apt_locked.have(
        [ROW], replace(supply, snapshot=f"file://{tmp_path}/dated", download=lambda _wanted: None)
    )
    assert (supply.shown / NAME).exists()


@pytest.mark.parametrize(
    ("snapshot", "repository", "found"),
    [
        ("20260504T030201Z", "http://deb.debian.org/debian", "http://snapshot.debian.org/archive/debian/20260504T030201Z/f"),
        ("http://m/{archive}/{date}", "http://deb.debian.org/debian-security/", "http://m/debian-security/D/f"),
        ("http://m/{archive}", "http://security.debian.org", "http://m/debian-security/f"),
        ("http://m/{archive}", "http://127.0.0.1:8000", "http://m/debian/f"),
        ("file:///srv/x/", "file:/repository", "file:///srv/x/f"),
    ],
)  # fmt: skip
def test_where_a_dated_mirror_has_a_file(snapshot: str, repository: str, found: str) -> None:
    row = replace(ROW, file="f", repository=repository)
    assert apt_locked.snapshot_uri(snapshot, row, "D") == found


def test_a_repository_of_a_lock_is_the_same_each_time(supply: apt_locked.Supply, tmp_path: Path) -> None:
    (supply.shown / NAME).write_bytes(DATA)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        apt_locked.write_repository(
            tmp_path / name, [replace(ROW, priority="required")], supply.shown, suite="s"
        )
    text = (tmp_path / "one/Packages").read_text()
    assert text == (tmp_path / "two/Packages").read_text()
    assert "Priority: required\n" in text
    assert "Priority: optional" not in text
    assert f"Filename: ./{NAME}\nSize: {ROW.size}\nSHA256: {ROW.sha256}\n\n" in text
    release = (tmp_path / "one/Release").read_text()
    assert "Suite: s\nCodename: s\n" in release
    assert hashlib.sha256(text.encode()).hexdigest() in release
    shutil.rmtree(supply.shown)
    with pytest.raises(InstallError, match="cannot be read"):
        control_of(supply.shown / NAME)


def test_an_answer_may_have_less_than_the_lock_and_nothing_else() -> None:
    base = LockedBase(label="", key="k", uuid="", tree_digest="")
    lock = Lock(asked=Asked(image="i"), base=base, date="", packages=(ROW,), removed=("old",))
    apt_locked.check(lock, Resolution(versions={}, exact=True))
    apt_locked.check(lock, Resolution(versions={"alpha": "1:1.0", "old": ""}, exact=True))
    with pytest.raises(LockError, match="an install of it gives alpha 2, other removed"):
        apt_locked.check(lock, Resolution(versions={"alpha": "2", "other": ""}, exact=True))


def test_a_repository_is_named_as_the_image_names_it() -> None:
    text = "deb http://deb.debian.org/debian x main\ndeb http://h/flat/ ./\n"
    sources = Sources(files={"/etc/apt/sources.list": text})
    mirror = "http://mirror/debian"
    assert sources.split("http://mirror/debian/pool/a.deb", mirror) == (
        "http://deb.debian.org/debian",
        "pool/a.deb",
    )
    assert sources.split("http://h/flat/./a.deb", mirror) == ("http://h/flat", "a.deb")
    assert sources.split("http://unknown/x/a.deb", mirror) == ("http://unknown", "x/a.deb")
    assert sources.split("file:/srv/a.deb", "") == ("file:", "srv/a.deb")


def test_a_simulation_tells_where_packages_are_from() -> None:
    found = apt_simulation.parse(
        "Inst a [1] (2 Debian:12/stable, Debian-Security:12/stable-security [amd64])\n"
        "Inst b (1 Local:made [all]) []\nRemv c [1]\nConf a (2 x [amd64])\nnothing\n"
    )
    assert found.answer.versions == {"a": "2", "b": "1", "c": ""}
    assert found.origins == {"a": "Debian:12/stable, Debian-Security:12/stable-security", "b": "Local:made"}
    assert found.answer.order == ("Inst a", "Inst b", "Remv c", "Conf a")
