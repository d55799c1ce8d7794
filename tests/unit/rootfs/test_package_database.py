"""Packages of a root, by the files of its database."""

from __future__ import annotations

import os
from pathlib import Path

from buildstep.rootfs.installers.package_database import named, packages_in
from buildstep.rootfs.interface import Package
from buildstep.system.root import Root

STATUS = """Package: one
Status: install ok installed
Version: 1.0
Architecture: all

Package: gone
Status: deinstall ok config-files
Version: 1.0
"""


def dpkg(top: Path, text: str = STATUS) -> Path:
    (top / "var/lib/dpkg").mkdir(parents=True)
    (top / "var/lib/dpkg/status").write_text(text)
    return top / "var/lib/dpkg/status"


def test_dpkg(tmp_path: Path) -> None:
    dpkg(tmp_path)
    assert packages_in(Root(tmp_path)) == (Package(name="one", version="1.0", arch="all", source="one"),)


def test_pkgsrc(tmp_path: Path) -> None:
    for name in ("vim-share-9.1", "perl-5.40.0"):
        (tmp_path / "opt/local/pkg" / name).mkdir(parents=True)
        (tmp_path / "opt/local/pkg" / name / "+CONTENTS").touch()
    (tmp_path / "opt/local/pkg/pkgdb.byfile.db").touch()
    assert named(packages_in(Root(tmp_path))) == ("perl 5.40.0", "vim-share 9.1")


def test_what_is_no_database_has_no_packages(tmp_path: Path) -> None:
    assert packages_in(Root(tmp_path)) == ()
    status = dpkg(tmp_path)
    status.unlink()
    os.mkfifo(status)  # is not waited for
    assert packages_in(Root(tmp_path)) == ()
    status.unlink()
    status.symlink_to("/proc/kmsg")
    assert packages_in(Root(tmp_path)) == ()
    status.unlink()
    with status.open("wb") as stream:  # of holes
        stream.truncate(1 << 40)
    assert packages_in(Root(tmp_path)) == ()


def test_what_was_there_before_is_left_out() -> None:
    before = [Package(name="a", version="1"), Package(name="b", version="1")]
    now = [Package(name="a", version="1"), Package(name="b", version="2"), Package(name="c", version="")]
    assert named(now, before) == ("b 2", "c")
