"""The packages in a root, read from the files of its package database: nothing of the root is run."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from buildstep.rootfs.installers.dpkg_database import STATUS, installed_packages
from buildstep.rootfs.interface import Package
from buildstep.system.root import Root

PKGSRC = ("/opt/local/pkg", "/opt/local/pkgdb", "/usr/pkg/pkgdb", "/var/db/pkg")
"""Package databases of pkgsrc: a directory for each package, named as the package and its version."""

FILES = (STATUS, *PKGSRC)
"""Where all of these are: what changes none of them changes no package."""

_MOST = 64 << 20
"""Bytes of a database that is read: one of all packages that Debian has would be as large."""


def packages_in(root: Root) -> tuple[Package, ...]:
    """Return what is installed in a root, sorted; nothing where it has no database that is known here."""
    status = _read(root, STATUS)
    if status is not None:
        return tuple(installed_packages(status.decode(errors="replace")))
    for place in PKGSRC:
        folder = root.host_path(place)
        if folder is not None and folder.is_dir():
            return _pkgsrc(root, place, os.listdir(folder))
    return ()


def named(packages: Iterable[Package], without: Iterable[Package] = ()) -> tuple[str, ...]:
    """Return packages as `NAME VERSION`; without: those that were there before, in the same version."""
    before = {(row.name, row.arch, row.version) for row in without}
    rows = (row for row in packages if (row.name, row.arch, row.version) not in before)
    return tuple(f"{row.name} {row.version}".rstrip() for row in rows)


def _read(root: Root, path: str) -> bytes | None:
    """Return a file's content; None where there is none, or one that no package manager wrote."""
    try:
        fd = root.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as stream:
        info = os.fstat(fd)
        return stream.read(_MOST) if stat.S_ISREG(info.st_mode) and info.st_size <= _MOST else None


def _pkgsrc(root: Root, place: str, names: Iterable[str]) -> tuple[Package, ...]:
    found = []
    for full in names:
        if root.is_file(f"{place}/{full}/+CONTENTS"):
            name, _, version = os.fsencode(full).decode(errors="replace").rpartition("-")
            found.append(Package(name=name or version, version=version if name else ""))
    return tuple(sorted(found, key=lambda row: (row.name, row.version)))
