"""An inventory with everything that can be in one, for tests of what is made of inventories."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from buildstep.trust.inventory.model import Base, Component, Distro, Inventory, License, Origin, OwnFile

BASE, PACKAGES, SYNC = (
    Origin(step="base", layer=0),
    Origin(step="packages", layer=1),
    Origin(step="sync", layer=2),
)


def hashes(content: bytes) -> Mapping[str, str]:
    sha1 = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return {"sha256": hashlib.sha256(content).hexdigest(), "sha1": sha1}


def deb(name: str, version: str, *, source: str = "", origin: Origin = BASE, **more: object) -> Component:
    purl = (
        f"pkg:deb/debian/{name.replace('+', '%2B')}@{version.replace('+', '%2B')}?arch=amd64&distro=debian-12"
    )
    component = Component(
        kind="deb", name=name, version=version, arch="amd64", purl=purl, source=source or name,
        source_version=version.partition("+b")[0], origin=origin,
        supplier="GNU Libc Maintainers <debian-glibc@lists.debian.org>",
    )  # fmt: skip
    return replace(component, **more)  # type: ignore[arg-type]


LIBC = deb(
    "libc6", "2.36-9+deb12u13", source="glibc", homepage="https://www.gnu.org/software/libc/libc.html",
    license=License(expression="LGPL-2.1-or-later AND LicenseRef-BSL", texts={"LicenseRef-BSL": "Do as you like."}),
    copyright="1991-2022 Free Software Foundation, Inc.", description="GNU C Library",
)  # fmt: skip
STDCPP = deb("libstdc++6", "12.2.0-14+deb12u1", source="gcc-12", depends=(LIBC.ref,))
NGINX = deb(
    "nginx", "1:1.22.1-9~deb12u3", origin=PACKAGES, depends=(LIBC.ref, "pkg:deb/debian/gone@1"), homepage="no address",
    license=License(expression="LicenseRef-BSL", texts={"LicenseRef-BSL": "Another text of that name."}),
    supplier='"A. Person (of Debian)" <person@debian.org>', hashes={"sha256": "ab" * 32},
)  # fmt: skip
WEB = Component(
    kind="npm", name="@scope/web", version="1.0.0", purl="pkg:npm/%40scope/web@1.0.0", origin=SYNC,
    license=License(expression="MIT"), location=b"srv/node_modules/@scope/web/package.json",
)  # fmt: skip
WEB_AGAIN = replace(WEB, location=b"srv/other/node_modules/@scope/web/package.json")
PKGSRC = Component(
    kind="pkgsrc", name="zlib", version="1.3.1nb1", purl="pkg:generic/pkgsrc/zlib@1.3.1nb1?arch=x86_64",
    properties={"PKGPATH": "devel/zlib", "cpe": "cpe:2.3:a:zlib:zlib:1.3.1:*:*:*:*:*:*:*"},
    license=License(expression="LicenseRef-zlib+x"),
)  # fmt: skip
TOOL = Component(kind="elf", name="tool", version="3", location=b"usr/local/bin/tool")
FILES = (
    OwnFile(path=b"srv/caf\xc3\xa9", size=3, hashes=hashes(b"abc"), origin=SYNC),
    OwnFile(path=b'srv/\xff\n"bad', size=0, hashes=hashes(b""), origin=SYNC),
    OwnFile(path=b"etc/hosts", size=2, hashes=hashes(b"hi"), origin=BASE),
)
EVERYTHING = Inventory(
    name="hello",
    version="1.0.0",
    description="A service",
    supplier="Example Inc.",
    distro=Distro(id="debian", version="12", codename="bookworm", name="Debian GNU/Linux 12 (bookworm)"),
    base=Base(
        label="docker://reg/debian:12",
        name="debian",
        version="12",
        digest=f"sha256:{'cd' * 32}",
        tree_digest="ef" * 32,
    ),
    components=(NGINX, LIBC, STDCPP, WEB_AGAIN, WEB, PKGSRC, TOOL),
    files=FILES,
    digests={"oci": f"sha256:{'12' * 32}", "tree": "34" * 32},
    unknown=("var/lib/rpm: no rpm here",),
    complete=False,
    created=1_790_000_000,
    layers=(f"sha256:{'56' * 32}", f"sha256:{'78' * 32}"),
)
"""One with everything: epochs, tildes, plus signs, two texts of one name, a package in two places."""
