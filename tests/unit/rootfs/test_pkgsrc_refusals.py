"""What pkg_add prints when it refuses a package, and the hint that goes with it."""

from __future__ import annotations

import pytest

from buildstep.errors import CommandFailed, InstallError
from buildstep.rootfs.installers import pkgsrc_refusals
from buildstep.rootfs.installers.common import failures
from buildstep.rootfs.installers.pkgsrc_refusals import CULPRITS, advice, unfetched, upgrade_failed

PLATFORM = """\
pkg_add: Warning: package `nginx-1.26.2' was built for a platform:
pkg_add: NetBSD/aarch64 10.0 (pkg) vs. SunOS/x86_64 5.11 (this host)
pkg_add: 1 package addition failed"""

OLDER_SYSTEM = """\
pkg_add: Warning: package `zlib-1.3' was built for a platform:
pkg_add: SunOS/x86_64 5.10 (pkg) vs. SunOS/x86_64 5.11 (this host)
pkg_add: no pkg found for 'nonesuch', sorry."""

LICENSE = """\
pkg_add: License `vmware-eula' of package `tools-1.0' is not acceptable
pkg_add: Can't install dependency tools>=1"""

UNSIGNED = """\
No valid signature found for x-1.2.
Do you want to proceed with the installation [y/n]?
Cancelling installation"""

REVERSE = "pkg_add: Installed package `b-8.0' conflicts with `a-[0-9]*' when trying to install `a-11'."

BROKEN_OFF = "pkg_add: package `x-1' already has a temporary update directory `/opt/local/pkg/x-1.xxxxxx', remove it manually"

# Output, the packages named, and what the hint holds.
REFUSED = [
    (
        PLATFORM,
        "nginx-1.26.2",
        "nginx-1.26.2 is for NetBSD/aarch64 and the image's pkg_add is for SunOS/x86_64",
    ),
    (
        LICENSE,
        "tools-1.0, tools>=1",
        "/opt/local/etc/pkg_install.conf, in the base image or the proto directory",
    ),
    (LICENSE, "tools-1.0, tools>=1", ": ACCEPTABLE_LICENSES=vmware-eula"),
    ("pkg_add: No LICENSE set for package `x-1'", "x-1", "CHECK_LICENSE=yes"),
    ("pkg_add: Invalid LICENSE for package `x-1'", "x-1", "CHECK_LICENSE=no"),
    (
        "pkg_add: No valid signature found, rejected",
        "",
        "VERIFIED_INSTALLATION in the image's /opt/local/etc/",
    ),
    (UNSIGNED, "x-1.2", "VERIFIED_INSTALLATION"),
    (
        "pkg_add: Error: package `x-1' was built with a newer pkg_install version",
        "x-1",
        "newer base image",
    ),
    ("pkg_add: Missing required library: /lib/libmd5.so.1", "", "needs /lib/libmd5.so.1 of the system"),
    (
        "pkg_add: Package `mariadb-11' conflicts with `mysql-[0-9]*', and `mysql-8.0' is installed.",
        "mariadb-11",
        "mariadb-11 and mysql-8.0 cannot be in one image",
    ),
    (REVERSE, "a-11", "a-11 and b-8.0 cannot be in one image"),
    ("pkg_add: Conflicting PLIST with b-1: man/man1/x y.1", "", "man/man1/x y.1 belongs to b-1"),
    (
        "pkg_add: Dependency of nginx-1.26 fulfilled by zlib-1.3, but not by zlib-2.0",
        "zlib-2.0",
        "nginx-1.26 in the image works with zlib-1.3 only",
    ),
    (
        "Package x-1 has a denial-of-service vulnerability, see https://e.org/1",
        "x-1",
        "read https://e.org/1",
    ),
    ("pkg_add: Premature end of archive", "", "damaged"),
    ("pkgin: download mismatch: /var/db/pkgin/cache/curl-8.9nb1.tgz", "curl-8.9nb1", "build again"),
    (BROKEN_OFF, "x-1", "remove /opt/local/pkg/x-1.xxxxxx"),
    ("pkg_add: no pkg found for 'nonesuch', sorry.", "nonesuch", "`pkgin search`"),
]


@pytest.mark.parametrize(("output", "named", "hint"), REFUSED)
def test_a_refusal_names_its_package_and_has_a_hint(output: str, named: str, hint: str) -> None:
    with (
        pytest.raises(InstallError) as caught,
        failures("installing", ["asked"], *CULPRITS, hint=lambda text: advice(text, "/opt/local")),
    ):
        raise CommandFailed(["pkg_add"], 1, detail=output)
    assert caught.value.message.startswith(f"installing failed for {named or 'asked'}: ")
    assert hint in caught.value.hint


def test_every_refusal_is_told_of_here() -> None:
    seen = {advice(output, "/usr/pkg") for output, _, _ in REFUSED}
    assert "" not in seen
    assert len(seen) >= len({refusal.hint for refusal in pkgsrc_refusals.REFUSALS})


def test_another_release_of_the_same_system_is_no_refusal() -> None:
    """pkg_add only warns of it: the fault is what comes after."""
    assert "nonesuch" not in advice(PLATFORM, "/usr/pkg")
    assert "pkgin search" in advice(OLDER_SYSTEM, "/usr/pkg")


def test_the_first_refusal_is_the_cause() -> None:
    text = "pkg_add: License `own' of package `a-1' is not acceptable\npkg_add: no pkg found for 'b', sorry."
    assert "ACCEPTABLE_LICENSES=own" in advice(text, "/usr/pkg")


@pytest.mark.parametrize(
    ("why", "hint"),
    [
        (": Not Found", "let PKGVULNURL in the image's /usr/pkg/etc/pkg_install.conf name"),
        (": Connection refused", "is its server reachable from this CI host?"),
        ("", "is its server reachable from this CI host?"),
    ],
)
def test_a_vulnerability_list_that_is_not_fetched(why: str, hint: str) -> None:
    cause = unfetched(f"pkg_admin: Could not fetch vulnerability file{why}", "/usr/pkg")
    assert cause is not None
    assert cause.text.startswith("the vulnerability list cannot be fetched")
    assert hint in cause.hint


def test_a_package_that_came_with_another_is_no_failed_upgrade() -> None:
    failed = "pkg_add: 1 package addition failed\n"
    there = "pkg_add: A different version of a-2 is already installed: a-1\n"
    assert upgrade_failed(f"---Jan 01 00:00:00: installing b-1...\n{failed}")
    assert not upgrade_failed(f"{there}{failed}")
    assert upgrade_failed(f"{there}{failed}{failed}")
    assert not upgrade_failed("pkg_add: Warning: package `a-1' was built for a platform:\n")


def test_output_without_a_refusal_gives_no_hint() -> None:
    assert advice("pkg_add: install script returned error status", "/usr/pkg") == ""
