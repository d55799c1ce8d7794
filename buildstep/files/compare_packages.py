"""Packages of two trees: which came, went or have another version, and which owns a path."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from buildstep.files.compare import Content, Listing
from buildstep.rootfs.installers import dpkg_database, pkgsrc_versions
from buildstep.rootfs.interface import Package
from buildstep.tree.entry import Entry

_STATUS = dpkg_database.STATUS.lstrip("/").encode()
_INFO = dpkg_database.INFO.lstrip("/").encode() + b"/"
_PKGSRC = re.compile(
    rb"(?P<top>(?:root/)?)(?:opt/local/pkg|opt/local/pkgdb|usr/pkg/pkgdb|var/db/pkg)/(?P<name>[^/]+)/\+CONTENTS"
)
"""pkgsrc has a directory for each package, named as the package and its version; a zone's is in root/."""

DATABASES = re.compile(
    b"%b|%b[^/]+[.]list|%b" % (re.escape(_STATUS), re.escape(_INFO), _PKGSRC.pattern), re.DOTALL
)
"""Files whose content is asked for here."""

_OTHERS = {
    b"lib/apk/db/installed": "apk",
    b"var/lib/rpm": "rpm",
    b"usr/lib/sysimage/rpm": "rpm",
    b"var/lib/pacman/local": "pacman",
    b"var/lib/dpkg/status.d": "dpkg's status.d",
}
"""Databases that are not read, so that the packages of a tree with one are not known."""

_MERGED = (b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libo32", b"libx32")
"""Directories that are a link into /usr since usr-merge, while dpkg's lists may have the path from before."""

Newer = Callable[[str, str], bool]
_NEWER: dict[str, Newer] = {
    "apt": dpkg_database.newer,
    "pkgsrc": pkgsrc_versions.newer,
}


@dataclass(frozen=True, slots=True)
class Packages:
    """The packages of a tree. rows: None where they are not known, and then `why` says why not.

    manager: the installer (`apt`, `pkgsrc`) whose database it is, which gives versions an order; may be "".
    """

    rows: tuple[Package, ...] | None
    manager: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class PackageChange:
    """A package that differs. old, new: its versions, empty for none; `changed`: they have no known order."""

    name: str
    arch: str
    change: Literal["added", "removed", "upgraded", "downgraded", "changed"]
    old: str
    new: str


def packages_in(listing: Listing, content: Content | None) -> Packages:
    """Return the packages by the databases in a tree. content: None where there is only a list."""
    if status := listing.find(_STATUS):
        data = content(status) if content else None
        if data is None:
            return Packages(None, "apt", "there is only a list of its files, not dpkg's database")
        return Packages(tuple(dpkg_database.installed_packages(data.decode(errors="replace"))), "apt")
    found = []
    for entry in listing.containing(b"/+CONTENTS"):
        if match := _PKGSRC.fullmatch(entry.path):
            name, _, version = match["name"].decode(errors="replace").rpartition("-")
            found.append(Package(name=name or version, version=version if name else ""))
    if not found:
        for path, manager in _OTHERS.items():
            if listing.find(path):
                return Packages(None, "", f"the database of {manager} is not read")
    return Packages(tuple(sorted(found, key=lambda row: (row.name, row.version))), "pkgsrc" if found else "")


def package_changes(old: Packages, new: Packages) -> list[PackageChange] | None:
    """Return what differs between the packages of two trees; None where those of one are not known."""
    if old.rows is None or new.rows is None:
        return None
    newer = _NEWER.get(new.manager or old.manager)
    was = {(row.name, row.arch): row.version for row in old.rows}
    now = {(row.name, row.arch): row.version for row in new.rows}
    rows = []
    for name, arch in sorted(was.keys() | now.keys()):
        before, after = was.get((name, arch)), now.get((name, arch))
        if before != after:
            rows.append(PackageChange(name, arch, _word(before, after, newer), before or "", after or ""))
    return rows


def _word(
    old: str | None, new: str | None, newer: Newer | None
) -> Literal["added", "removed", "upgraded", "downgraded", "changed"]:
    if old is None:
        return "added"
    if new is None:
        return "removed"
    if newer is not None and newer(new, old):
        return "upgraded"
    return "downgraded" if newer is not None and newer(old, new) else "changed"


# -- who owns a path --------------------------------------------------------------------------------------


def owners(listing: Listing, content: Content, wanted: Collection[bytes]) -> dict[bytes, str]:
    """Return the packages that own these paths, by the lists of the databases in the tree itself."""
    found: dict[bytes, str] = {}
    merged = merged_directories(listing)
    for name, paths in _owned(listing, content):
        for path in paths:
            if path not in wanted:
                top, slash, rest = path.partition(b"/")
                path = merged[top] + slash + rest if top in merged else path  # noqa: PLW2901
            if path in wanted:
                found.setdefault(path, name)
    return found


def _owned(listing: Listing, content: Content) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Yield each package with its paths."""
    for entry in listing.containing(b"\t" + _INFO):
        if entry.path.endswith(b".list"):
            name = entry.path.removeprefix(_INFO).removesuffix(b".list").partition(b":")[0]
            data = content(entry) or b""
            yield name.decode(errors="replace"), [row[1:] for row in data.split(b"\n") if row[:1] == b"/"]
        package = entry.path.removeprefix(_INFO).rpartition(b".")[0].partition(b":")[0]
        yield package.decode(errors="replace"), [entry.path]
    for entry in listing.containing(b"/+CONTENTS"):
        if match := _PKGSRC.fullmatch(entry.path):
            name = match["name"].rpartition(b"-")[0] or match["name"]
            paths = (match["top"] + path for path in _contents(content(entry) or b""))
            yield name.decode(errors="replace"), [entry.path, *paths]


def _contents(data: bytes) -> Iterator[bytes]:
    """Yield the paths of a packing list (pkg_create(1)): relative to the `@cwd` before them."""
    prefix, ignored = b"", False
    for row in data.split(b"\n"):
        if row.startswith(b"@cwd "):
            prefix = row[5:].strip().strip(b"/") + b"/"
        elif row and not row.startswith(b"@") and not ignored:
            yield row.lstrip(b"/") if row.startswith(b"/") else prefix.lstrip(b"/") + row
        ignored = row.startswith(b"@ignore")


def merged_directories(listing: Listing) -> dict[bytes, bytes]:
    """Return the directories at the top of a tree that usr-merge made links, with where they lead."""
    found = ((top, listing.find(top)) for top in _MERGED)
    return {top: it.target.strip(b"/") for top, it in found if it is not None and it.kind == "l"}


def database_files(listing: Listing) -> Iterator[Entry]:
    """Yield the files of a tree whose content is asked for here."""
    for part in (b"\t" + _STATUS, b"\t" + _INFO, b"/+CONTENTS"):
        for entry in listing.containing(part):
            if entry.kind == "f" and DATABASES.fullmatch(entry.path):
                yield entry
