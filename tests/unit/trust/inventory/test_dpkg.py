from __future__ import annotations

import hashlib

from buildstep.trust.inventory.gather import inventory_of
from buildstep.trust.inventory.model import Distro
from tests.unit.inventorydata import DEBIAN, Content, HandMade, Link, inventory, only

STATUS = """\
Package: libstdc++6
Status: install ok installed
Priority: optional
Section: libs
Maintainer: Debian GCC Maintainers <debian-gcc@lists.debian.org>
Architecture: amd64
Multi-Arch: same
Source: gcc-12
Version: 12.2.0-14
Depends: gcc-12-base (= 12.2.0-14), libc6 (>= 2.36)
Description: GNU Standard C++ Library v3
 This package contains an additional runtime library.
 .
 More of it.
Homepage: http://gcc.gnu.org/

Package: bash
Essential: yes
Status: install ok installed
Maintainer: Matthias Klose <doko@debian.org>
Architecture: amd64
Source: bash (5.2.15-2)
Version: 5.2.15-2+b8
Pre-Depends: libc6 (>= 2.36), libtinfo6 | libtinfo5
Depends: awk, base-files (>= 2.1.12), debianutils:any (>= 5.6-0.1)
Conffiles:
 /etc/bash.bashrc 89269e1298235f1b12b4c16e4065ad0d
Description: GNU Bourne Again SHell

Package: mawk
Status: install ok installed
Architecture: amd64
Version: 1.3.4.20200120-3.1
Provides: awk
Description: Pattern scanning

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2:2.36-9
Description: the library

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2:2.36-9
Description: the library, for others

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
Description: removed
"""

IMAGE: dict[str, Content] = {
    "etc/os-release": DEBIAN,
    "bin": Link("usr/bin"),
    "usr/bin/bash": b"\x7fELF",
    "usr/bin/rbash": Link("bash"),
    "usr/bin/own": "mine",
    "etc/bash.bashrc": "PS1=x",
    "var/lib/dpkg/status": STATUS,
    "var/lib/dpkg/info/bash.list": "/.\n/bin\n/bin/bash\n/bin/rbash\n/etc\n/etc/bash.bashrc\n/usr/share/gone\n",
    "var/lib/dpkg/info/bash.md5sums": "0123456789abcdef0123456789abcdef  bin/bash\n",
    "var/lib/dpkg/info/libc6:amd64.list": "/.\n/usr/lib/libc.so.6\n",
    "var/lib/dpkg/info/libc6:i386.list": "/.\n/usr/lib32/libc.so.6\n",
    "usr/lib/libc.so.6": "64",
    "usr/lib32/libc.so.6": "32",
}


def test_packages_have_what_dpkg_knows_of_them() -> None:
    found = inventory(IMAGE)
    assert [row.name for row in found.components] == ["bash", "libc6", "libc6", "libstdc++6", "mawk"]
    bash = only(found, "bash")
    assert bash.purl == (
        "pkg:deb/debian/bash@5.2.15-2%2Bb8?arch=amd64&distro=debian-12&upstream=bash%405.2.15-2"
    )
    assert (bash.source, bash.source_version) == ("bash", "5.2.15-2")
    library = only(found, "libstdc++6")
    assert library.purl == (
        "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?arch=amd64&distro=debian-12&upstream=gcc-12"
    )
    assert (library.source, library.source_version) == ("gcc-12", "12.2.0-14")
    assert library.supplier == "Debian GCC Maintainers <debian-gcc@lists.debian.org>"
    assert library.description == "GNU Standard C++ Library v3"
    assert library.homepage == "http://gcc.gnu.org/"
    assert library.properties == {"section": "libs", "multi-arch": "same"}
    assert found.distro == Distro(
        id="debian", version="12", codename="bookworm", name="Debian GNU/Linux 12 (bookworm)"
    )


def test_what_is_needed_is_what_is_there() -> None:
    """The first alternative that is installed, one that provides it, and the library of the same kind."""
    found = inventory(IMAGE)
    names = [row.partition("@")[0].rpartition("/")[2] for row in only(found, "bash").depends]
    assert names == ["libc6", "mawk"]
    assert "pkg:deb/debian/libc6@2:2.36-9?arch=amd64&distro=debian-12" in only(found, "bash").depends


def test_files_lie_where_the_links_of_directories_lead() -> None:
    found = inventory(IMAGE)
    assert only(found, "bash").files == (b"etc/bash.bashrc", b"usr/bin/bash", b"usr/bin/rbash")
    assert [row.files for row in found.components if row.name == "libc6"] == [
        (b"usr/lib/libc.so.6",),
        (b"usr/lib32/libc.so.6",),
    ]


def test_what_no_package_owns_is_listed_with_its_digest() -> None:
    found = inventory(IMAGE)
    assert [row.path for row in found.files] == [b"etc/os-release", b"usr/bin/own", b"var/lib/dpkg/status"]
    assert found.files[1].hashes == {
        "sha256": hashlib.sha256(b"mine").hexdigest(),
        "sha1": hashlib.sha1(b"mine").hexdigest(),
    }
    assert (found.unknown, found.complete) == ((), True)


def test_a_file_of_a_package_that_a_step_replaced_is_listed() -> None:
    source = HandMade(IMAGE, steps={"etc/bash.bashrc": "sync", "usr/bin/bash": "packages"})
    found = inventory_of(source, name="image")
    assert b"etc/bash.bashrc" in [row.path for row in found.files]
    assert b"usr/bin/bash" not in [row.path for row in found.files]


def test_only_what_is_listed_is_hashed() -> None:
    source = HandMade(IMAGE)
    inventory_of(source, name="image")
    assert source.hashed == [b"etc/os-release", b"usr/bin/own", b"var/lib/dpkg/status"]


def test_images_without_dpkg_have_a_file_for_each_package() -> None:
    """As distroless and others make them (status.d)."""
    found = inventory(
        {
            "etc/os-release": DEBIAN,
            "var/lib/dpkg/status.d/tzdata": "Package: tzdata\nVersion: 2024a-0+deb12u1\nArchitecture: all\n"
            "Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>\nDescription: time zones\n",
            "var/lib/dpkg/status.d/tzdata.md5sums": "0123456789abcdef0123456789abcdef  usr/share/zoneinfo/UTC\n",
            "var/lib/dpkg/status.d/odd": "no fields\n",
            "usr/share/zoneinfo/UTC": "TZif",
        }
    )
    tzdata = only(found, "tzdata")
    assert tzdata.purl == "pkg:deb/debian/tzdata@2024a-0%2Bdeb12u1?arch=all&distro=debian-12"
    assert tzdata.files == (b"usr/share/zoneinfo/UTC",)
    assert tzdata.location == b"var/lib/dpkg/status.d/tzdata"
    assert tzdata.license.expression == ""
    assert found.unknown == ("var/lib/dpkg/status.d/odd names no package",)


def test_without_a_list_the_checksums_say_what_is_owned() -> None:
    image = {name: data for name, data in IMAGE.items() if not name.endswith("bash.list")}
    assert only(inventory(image), "bash").files == (b"etc/bash.bashrc", b"usr/bin/bash")


def test_a_diverted_file_is_where_it_was_put() -> None:
    image = {
        **IMAGE,
        "var/lib/dpkg/diversions": "/usr/bin/bash\n/usr/bin/bash.real\nother\n/bin/bash\n/bin/bash.real\nother\n",
        "usr/bin/bash.real": "the package's",
    }
    found = inventory(image)
    assert b"usr/bin/bash.real" in only(found, "bash").files
    assert b"usr/bin/bash" in [row.path for row in found.files]


def test_apt_says_what_was_asked_for() -> None:
    image = {
        **IMAGE,
        "var/lib/apt/extended_states": "Package: mawk\nArchitecture: amd64\nAuto-Installed: 1\n\n",
    }
    found = inventory(image)
    assert only(found, "mawk").properties["installed"] == "automatic"
    assert only(found, "bash").properties["installed"] == "manual"


def test_a_zone_has_its_packages_in_its_root() -> None:
    found = inventory({f"root/{name}": data for name, data in IMAGE.items()})
    assert only(found, "bash").files == (
        b"root/etc/bash.bashrc",
        b"root/usr/bin/bash",
        b"root/usr/bin/rbash",
    )
    assert only(found, "bash").purl.endswith("distro=debian-12&upstream=bash%405.2.15-2")


def test_a_release_in_the_making_is_named() -> None:
    found = inventory({**IMAGE, "etc/os-release": "ID=debian\nVERSION_CODENAME=trixie\n"})
    assert (
        only(found, "mawk").purl == "pkg:deb/debian/mawk@1.3.4.20200120-3.1?arch=amd64&distro=debian-trixie"
    )


def test_a_hostile_database_is_data() -> None:
    """Names with control characters or slashes, links in a circle, paths that lead out, no UTF-8."""
    found = inventory(
        {
            "var/lib/dpkg/status": b"Package: ../../etc/passwd\nStatus: install ok installed\n\n"
            b"Package: bad\x1b[2J\nStatus: install ok installed\n\n"
            b"Package: good\nStatus: install ok installed\nVersion: 1\xff\x07\nMaintainer: a\x1b[31mb\n\n",
            "var/lib/dpkg/info/good.list": b"/../../../etc/shadow\n/loop/x\n//\n/a\xffb\n",
            "loop": Link("loop"),
            "a\udcffb": "x",
            "etc/shadow": "root",
        }
    )
    (good,) = found.components
    assert good.version == "1\ufffd"
    assert good.supplier == "a [31mb"
    assert good.files == (b"a\xffb", b"etc/shadow")
    assert found.unknown == ("dpkg's status has 2 paragraphs that name no package",)
    assert not found.complete


def test_the_same_image_gives_the_same_inventory() -> None:
    assert inventory(IMAGE) == inventory(dict(reversed(list(IMAGE.items()))))
