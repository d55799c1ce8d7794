"""The databases of other systems, as those write them."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping

from tests.unit.inventorydata import Content, inventory, only

# -- pkgsrc -------------------------------------------------------------------------------------------

CURL = """\
@comment $NetBSD$
@name curl-8.11.0nb1
@pkgdep libidn2>=2.0.4
@pkgdep zlib-[0-9]*
@blddep libidn2-2.3.7
@blddep zlib-1.3.1
@cwd /opt/local
bin/curl
@comment MD5:0123456789abcdef0123456789abcdef
lib/libcurl.so
@comment Symlink:libcurl.so.4
@ignore
+BUILD_INFO
@cwd /etc
curlrc
"""
BUILD_INFO = """\
BUILD_DATE=2024-12-01 10:00:00 +0000
BUILD_HOST=SunOS build 5.11
CATEGORIES=www
HOMEPAGE=https://curl.se/
LICENSE=(curl-license OR gnu-gpl-v2) AND modified-bsd
MACHINE_ARCH=x86_64
MAINTAINER=pkgsrc-users@NetBSD.org
OPSYS=SunOS
PKGPATH=www/curl
REQUIRES=/opt/local/lib/libz.so.1
"""
SMARTOS: dict[str, Content] = {
    "etc/product": "Name: Joyent Instance\nImage: base-64-lts 24.4.1\n",
    "opt/local/pkg/curl-8.11.0nb1/+CONTENTS": CURL,
    "opt/local/pkg/curl-8.11.0nb1/+BUILD_INFO": BUILD_INFO,
    "opt/local/pkg/curl-8.11.0nb1/+COMMENT": "Client that groks URLs\n",
    "opt/local/pkg/libidn2-2.3.7/+CONTENTS": "@name libidn2-2.3.7\n@cwd /opt/local\nlib/libidn2.so\n",
    "opt/local/pkg/libidn2-2.3.7/+INSTALLED_INFO": "automatic=YES\n",
    "opt/local/pkg/zlib-1.3.1/+CONTENTS": "@name zlib-1.3.1\n@cwd /opt/local\nlib/libz.so\n",
    "opt/local/pkg/pkgdb.byfile.db": "not a package",
    "opt/local/bin/curl": "c",
    "opt/local/lib/libcurl.so": "so",
    "opt/local/lib/libz.so": "z",
    "etc/curlrc": "x",
    "opt/local/own": "mine",
}


def test_packages_of_pkgsrc() -> None:
    found = inventory(SMARTOS)
    curl = only(found, "curl")
    assert curl.purl == "pkg:generic/pkgsrc/curl@8.11.0nb1?arch=x86_64&distro=smartos-24.4.1"
    assert curl.files == (b"etc/curlrc", b"opt/local/bin/curl", b"opt/local/lib/libcurl.so")
    assert [ref.partition("?")[0] for ref in curl.depends] == [
        "pkg:generic/pkgsrc/libidn2@2.3.7",
        "pkg:generic/pkgsrc/zlib@1.3.1",
    ]
    assert curl.description == "Client that groks URLs"
    assert curl.supplier == "pkgsrc-users@NetBSD.org"
    assert curl.license.expression == "BSD-3-Clause AND (GPL-2.0-only OR LicenseRef-curl-license)"
    assert curl.properties == {
        "pkgsrc:PKGPATH": "www/curl",
        "pkgsrc:OPSYS": "SunOS",
        "pkgsrc:CATEGORIES": "www",
        "installed": "manual",
    }
    assert only(found, "libidn2").properties == {"installed": "automatic"}
    assert [row.path for row in found.files] == [
        b"etc/product",
        b"opt/local/own",
        b"opt/local/pkg/pkgdb.byfile.db",
    ]


def test_patterns_say_what_is_needed_where_nothing_exact_does() -> None:
    image = {**SMARTOS, "opt/local/pkg/curl-8.11.0nb1/+CONTENTS": CURL.replace("@blddep", "@comment")}
    assert only(inventory(image), "curl").depends == only(inventory(SMARTOS), "curl").depends


def test_a_zone_has_pkgsrc_in_its_root() -> None:
    found = inventory({f"root/{path}": data for path, data in SMARTOS.items()})
    assert only(found, "zlib").files == (b"root/opt/local/lib/libz.so",)
    assert only(found, "curl").purl.endswith("distro=smartos-24.4.1")


# -- apk ----------------------------------------------------------------------------------------------

APK = """\
C:Q1ZXOqZxXSLQFvbPfZ7VuPhTsXZ5Y=
P:musl
V:1.2.4_git20230717-r4
A:x86_64
S:411110
I:667648
T:the musl c library (libc) implementation
U:https://musl.libc.org/
L:MIT
o:musl
m:Timo Teräs <timo.teras@iki.fi>
t:1700000000
c:ca7f2ab5e88794e4e654b40776f8a92256f50639
p:so:libc.musl-x86_64.so.1=1
F:lib
R:ld-musl-x86_64.so.1
a:0:0:755
Z:Q1pTmMJlOqjRdqbsUvgVtGTfD7Kis=
R:libc.musl-x86_64.so.1
a:0:0:777

C:Q1bqCmXMaiHzgFVmxo0m3UAv5l0EY=
P:libcrypto3
V:3.1.4-r5
A:x86_64
T:Crypto library from openssl
L:Apache-2.0
o:openssl
D:so:libc.musl-x86_64.so.1 !old
F:usr/lib
R:libcrypto.so.3

V:1
"""


def test_packages_of_alpine() -> None:
    found = inventory(
        {
            "etc/os-release": 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.19.1\n',
            "lib/apk/db/installed": APK,
            "lib/ld-musl-x86_64.so.1": "musl",
            "usr/lib/libcrypto.so.3": "c",
        }
    )
    library = only(found, "libcrypto3")
    assert library.purl == (
        "pkg:apk/alpine/libcrypto3@3.1.4-r5?arch=x86_64&distro=alpine-3.19.1&upstream=openssl"
    )
    assert (library.source, library.source_version) == ("openssl", "3.1.4-r5")
    assert library.depends == (only(found, "musl").purl,)
    assert library.files == (b"usr/lib/libcrypto.so.3",)
    assert only(found, "musl").properties["apk:commit"] == "ca7f2ab5e88794e4e654b40776f8a92256f50639"
    assert only(found, "musl").supplier == "Timo Teräs <timo.teras@iki.fi>"
    assert found.unknown == ("apk's database has 1 paragraphs that name no package",)


# -- rpm ----------------------------------------------------------------------------------------------


def header(values: Mapping[int, str | tuple[str, ...] | tuple[int, ...]]) -> bytes:
    index, data = b"", b""
    for tag, value in values.items():
        if isinstance(value, str):
            kind, count, raw = 6, 1, value.encode() + b"\0"
        elif value and isinstance(value[0], int):
            data += b"\0" * (-len(data) % 4)
            kind, count, raw = 4, len(value), struct.pack(f">{len(value)}I", *value)
        else:
            kind, count, raw = 8, len(value), b"".join(str(it).encode() + b"\0" for it in value)
        index += struct.pack(">IIII", tag, kind, len(data), count)
        data += raw
    return struct.pack(">II", len(values), len(data)) + index + data


def database(
    *blobs: bytes, table: str = "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)"
) -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute(table)
    if "TABLE Packages" in table:
        connection.executemany("INSERT INTO Packages (blob) VALUES (?)", [(blob,) for blob in blobs])
    connection.commit()
    return connection.serialize()


BASH = header(
    {
        1000: "bash",
        1001: "5.1.8",
        1002: "9.el9",
        1003: (1,),
        1004: "The GNU Bourne Again shell",
        1014: "GPLv3+",
        1020: "https://www.gnu.org/software/bash",
        1022: "x86_64",
        1044: "bash-5.1.8-9.el9.src.rpm",
        1047: ("bash", "/bin/sh"),
        1049: ("libc.so.6()(64bit)", "nothing"),
        1116: (0, 1),
        1117: ("bash", "bashrc"),
        1118: ("/usr/bin/", "/etc/"),
    }
)
GLIBC = header({1000: "glibc", 1001: "2.34", 1002: "100.el9", 1047: ("libc.so.6()(64bit)",)})
KEY = header({1000: "gpg-pubkey", 1001: "fd431d51", 1002: "4ae0493b"})
FEDORA = "ID=rhel\nVERSION_ID=9.4\n"


def test_packages_of_rpm_in_sqlite() -> None:
    found = inventory(
        {
            "etc/os-release": FEDORA,
            "var/lib/rpm/rpmdb.sqlite": database(BASH, GLIBC, KEY),
            "usr/bin/bash": "b",
        }
    )
    assert [row.name for row in found.components] == ["bash", "glibc"]
    bash = only(found, "bash")
    assert bash.purl == (
        "pkg:rpm/rhel/bash@5.1.8-9.el9?arch=x86_64&distro=rhel-9.4&epoch=1&upstream=bash-5.1.8-9.el9.src.rpm"
    )
    assert (bash.version, bash.source, bash.source_version) == ("1:5.1.8-9.el9", "bash", "5.1.8-9.el9")
    assert bash.license.expression == "GPL-3.0-or-later"
    assert bash.depends == (only(found, "glibc").purl,)
    assert bash.files == (b"usr/bin/bash",)


def test_an_rpm_database_that_cannot_be_read_is_told() -> None:
    for data in (
        b"not SQLite",
        database(b"short"),
        database(struct.pack(">II", 1 << 30, 1)),
        database(table="CREATE VIEW Packages AS SELECT 1 AS hnum, x'00' AS blob"),
        database(BASH)[:5000],
    ):
        found = inventory({"etc/os-release": FEDORA, "var/lib/rpm/rpmdb.sqlite": data})
        assert found.components == ()
        (sentence,) = found.unknown
        assert sentence.startswith("RPM's database var/lib/rpm/rpmdb.sqlite cannot be read: ")
    found = inventory({"var/lib/rpm/Packages": "bdb"})
    assert found.unknown == (
        "the packages of RPM are not known: var/lib/rpm/Packages is in the form of Berkeley DB",
    )
    assert not found.complete


# -- what is not read ---------------------------------------------------------------------------------


def test_what_is_not_read_is_told() -> None:
    found = inventory(
        {
            "var/lib/pacman/local/bash-5-1/desc": "x",
            "srv/app.jar": "PK",
            "srv/a/vendor/composer/installed.json": "[]",
            "usr/lib/ruby/gems/3.1.0/specifications/rake-13.0.6.gemspec": "x",
        }
    )
    assert sorted(found.unknown) == [
        "archives of Java are not read: srv/app.jar",
        "packages of PHP are not read: srv/a/vendor/composer/installed.json",
        "packages of Ruby are not read: usr/lib/ruby/gems/3.1.0/specifications/rake-13.0.6.gemspec",
        "packages of pacman are not read: var/lib/pacman/local/bash-5-1/desc",
    ]
