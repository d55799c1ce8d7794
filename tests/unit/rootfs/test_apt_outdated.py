"""What apt says of newer packages, and where they are from: real lines of apt 2.6."""

from __future__ import annotations

import pytest

from buildstep.rootfs.installers.apt_outdated import is_security, simulated, with_passed_over
from buildstep.rootfs.interface import Update

TEXT = """\
NOTE: This is only a simulation!
Inst base-files [12.4+deb12u11] (12.4+deb12u15 Debian:12.15/oldstable [amd64])
Inst perl [5.36.0-7+deb12u2] (5.36.0-7+deb12u4 Debian-Security:12/oldstable-security [amd64]) []
Inst libx:i386 [1] (2 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [i386]) [perl:amd64 ]
Inst hello (2.10-3 localhost [all])
Remv old [1:2.0] []
Conf base-files (12.4+deb12u15 Debian:12.15/oldstable [amd64])
"""


def test_what_would_change() -> None:
    assert simulated(TEXT) == [
        Update(
            name="base-files", arch="amd64", installed="12.4+deb12u11", candidate="12.4+deb12u15",
            origin="Debian:12.15/oldstable", security=False,
        ),
        Update(name="hello", arch="all", candidate="2.10-3", origin="localhost", security=False),
        Update(
            name="libx", arch="i386", installed="1", candidate="2",
            origin="Debian:12.15/oldstable, Debian-Security:12/oldstable-security", security=True,
        ),
        Update(name="old", installed="1:2.0"),
        Update(
            name="perl", arch="amd64", installed="5.36.0-7+deb12u2", candidate="5.36.0-7+deb12u4",
            origin="Debian-Security:12/oldstable-security", security=True,
        ),
    ]  # fmt: skip
    assert simulated("") == []


@pytest.mark.parametrize(
    ("origin", "is_one"),
    [
        ("Debian-Security:12/stable-security", True), ("Ubuntu:22.04/jammy-security", True),
        ("http://deb.debian.org/debian-security bookworm-security/main amd64 Packages", True),
        ("Debian:12.15/oldstable", False), ("http://deb.debian.org/debian bookworm/main amd64 Packages", False),
        ("", False),
    ],
)  # fmt: skip
def test_origins_of_security_updates(origin: str, is_one: bool) -> None:
    assert is_security(origin) is is_one


def test_a_fix_that_a_point_release_passed_over_counts() -> None:
    madison = """\
   openssl | 3.0.22-1 | http://deb.debian.org/debian bookworm/main amd64 Packages
   openssl | 3.0.20-1 | http://deb.debian.org/debian-security bookworm-security/main amd64 Packages
     bash | 5.2-1 | http://deb.debian.org/debian-security bookworm-security/main amd64 Packages
"""
    openssl = Update(name="openssl", installed="3.0.17-1", candidate="3.0.22-1", security=False)
    late = Update(name="openssl", installed="3.0.21-1", candidate="3.0.22-1", security=False)
    bash = Update(name="bash", installed="5.2-1", candidate="5.2-2", security=False)
    gone = Update(name="bash", installed="5.1")
    found = with_passed_over([openssl, late, bash, gone], madison)
    assert [update.security for update in found] == [True, False, False, None]
