"""Packages of pkgsrc: a directory NAME-VERSION each, with its packing list and what it was built from.

pkg_create(1): +CONTENTS has a path a line, relative to the last `@cwd`, with `@comment MD5:HEX` after it, and
`@blddep` for the exact packages that it was built with. +BUILD_INFO has `KEY=VALUE` lines (PKGPATH, LICENSE).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from buildstep.rootfs.installers.package_database import PKGSRC
from buildstep.trust.inventory.interface import ROOTS, Database, Reading, plain
from buildstep.trust.inventory.licenses import Expressions
from buildstep.trust.inventory.model import Component
from buildstep.trust.purl import distro_text, purl

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9+._-]{0,200})-([0-9][A-Za-z0-9+._~]{0,100})")
_PATTERN = re.compile(r"([A-Za-z0-9+._-]+?)(?:[<>=]|-[\[0-9{])")
_TOLD = ("PKGPATH", "PKG_OPTIONS", "OPSYS", "OS_VERSION", "CATEGORIES")
"""What a package says of how it was built that another build of the same version says as well."""

_LICENSES = {
    # pkgsrc says which text goes with a package, not whether a later one may be taken: so it is true of both.
    "gnu-gpl-v1": "GPL-1.0-only",
    "gnu-gpl-v2": "GPL-2.0-only",
    "gnu-gpl-v3": "GPL-3.0-only",
    "gnu-lgpl-v2": "LGPL-2.0-only",
    "gnu-lgpl-v2.1": "LGPL-2.1-only",
    "gnu-lgpl-v3": "LGPL-3.0-only",
    "gnu-agpl-v3": "AGPL-3.0-only",
    "gnu-fdl-v1.1": "GFDL-1.1-only",
    "gnu-fdl-v1.2": "GFDL-1.2-only",
    "gnu-fdl-v1.3": "GFDL-1.3-only",
    "2-clause-bsd": "BSD-2-Clause",
    "modified-bsd": "BSD-3-Clause",
    "original-bsd": "BSD-4-Clause",
    "apache-1.1": "Apache-1.1",
    "apache-2.0": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "artistic-2.0": "Artistic-2.0",
    "boost-license": "BSL-1.0",
    "cc0-1.0-universal": "CC0-1.0",
    "isc": "ISC",
    "mit": "MIT",
    "mpl-1.1": "MPL-1.1",
    "mpl-2.0": "MPL-2.0",
    "openssl": "OpenSSL",
    "php": "PHP-3.01",
    "python-software-foundation": "Python-2.0",
    "unlicense": "Unlicense",
    "x11": "X11",
    "zlib": "Zlib",
    "zpl": "ZPL-2.0",
}
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Package:
    """folder: its directory in the database; needs: names with versions where `exact`, else patterns."""

    name: str
    version: str
    folder: bytes
    info: Mapping[str, str]
    paths: tuple[bytes, ...]
    needs: tuple[str, ...]
    exact: bool

    @property
    def arch(self) -> str:
        return plain(self.info.get("MACHINE_ARCH", ""), 50)


def read(reading: Reading) -> None:
    """Add the packages of each pkgsrc database."""
    for top in ROOTS:
        for place in PKGSRC:
            found = list(_packages(reading, top + place.lstrip("/").encode() + b"/", top))
            if found:
                _add(reading, found)


def _packages(reading: Reading, database: bytes, top: bytes) -> Iterator[_Package]:
    for path in reading.under(database):
        folder, _, name = path.rpartition(b"/")
        if name != b"+CONTENTS" or b"/" in folder[len(database) :]:
            continue
        full = folder[len(database) :].decode(errors="replace")
        match = _NAME.fullmatch(full)
        if match is None:
            reading.tell(f"a directory of pkgsrc's database names no package: {plain(full, 100)}")
            continue
        paths, exact, patterns = _contents(reading.read(path) or b"")
        yield _Package(
            name=match[1],
            version=match[2],
            folder=folder,
            info=_build_info(reading.text(folder + b"/+BUILD_INFO") or ""),
            paths=reading.present(paths, top),
            needs=exact or patterns,
            exact=bool(exact),
        )


def _contents(data: bytes) -> tuple[tuple[bytes, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the paths of a packing list, the packages it was built with, and patterns of what it needs."""
    paths, exact, patterns = list[bytes](), list[str](), list[str]()
    prefix, ignored = b"", False
    for row in data.split(b"\n"):
        if row.startswith((b"@cwd ", b"@cd ")):
            prefix = row.split(b" ", 1)[1].strip().strip(b"/") + b"/"
        elif row.startswith(b"@blddep "):
            exact.append(plain(row[8:].decode(errors="replace"), 300))
        elif row.startswith(b"@pkgdep "):
            patterns.append(plain(row[8:].decode(errors="replace"), 300))
        elif row and not row.startswith(b"@") and not ignored:
            paths.append(row.lstrip(b"/") if row.startswith(b"/") else prefix.lstrip(b"/") + row)
        ignored = row.startswith(b"@ignore")
    return tuple(paths), tuple(exact), tuple(patterns)


def _build_info(text: str) -> dict[str, str]:
    rows = (row.partition("=") for row in text.splitlines())
    return {name: plain(value) for name, equals, value in rows if equals}


def _add(reading: Reading, packages: list[_Package]) -> None:
    distro = distro_text(reading.distro)
    refs = {
        f"{it.name}-{it.version}": purl("generic", "pkgsrc", it.name, it.version, arch=it.arch, distro=distro)
        for it in packages
    }
    by_name = {it.name: f"{it.name}-{it.version}" for it in packages}
    for it in packages:
        own = tuple(reading.under(it.folder + b"/"))
        reading.owned.update(own)
        names = it.needs if it.exact else tuple(by_name.get(_named(need), "") for need in it.needs)
        location = it.folder + b"/+CONTENTS"
        comment = reading.text(it.folder + b"/+COMMENT", limit=1 << 16) or ""
        reading.add(
            Component(
                kind="pkgsrc",
                name=it.name,
                version=it.version,
                arch=it.arch,
                purl=refs[f"{it.name}-{it.version}"],
                supplier=it.info.get("MAINTAINER", ""),
                homepage=it.info.get("HOMEPAGE", ""),
                description=plain(comment),
                license=Expressions().all_of([_license(it.info.get("LICENSE", ""))]),
                depends=tuple(sorted({refs[name] for name in names if name in refs})),
                files=it.paths,
                location=location,
                origin=reading.source.origin(location),
                properties={
                    **{f"pkgsrc:{key}": it.info[key] for key in _TOLD if it.info.get(key)},
                    "installed": "automatic" if _automatic(reading, it.folder) else "manual",
                },
            )
        )


def _named(pattern: str) -> str:
    """Return the name of a package in `name>=1.0`, `name-[0-9]*` or `name-1.2{,nb*}`."""
    match = _PATTERN.match(pattern)
    return match[1] if match else ""


def _automatic(reading: Reading, folder: bytes) -> bool:
    """Say whether a package was installed because another one needs it."""
    text = reading.text(folder + b"/+INSTALLED_INFO", limit=1 << 16) or ""
    return "automatic=yes" in text.lower().splitlines()


def _license(text: str) -> str:
    """Return pkgsrc's names as SPDX has them; AND, OR and parentheses are the same."""
    return _WORD.sub(lambda match: _LICENSES.get(match[0].lower(), match[0]), text)


DATABASE = Database(name="pkgsrc", what="packages of pkgsrc", read=read)
