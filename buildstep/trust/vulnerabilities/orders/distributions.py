"""The orders of dpkg and pkgsrc, whose package managers are driven here anyway."""

from __future__ import annotations

import re

from buildstep.rootfs.installers import dpkg_database, pkgsrc_versions

_DPKG = re.compile(r"[0-9]+:[A-Za-z0-9.+~:-]+|[A-Za-z0-9.+~-]+")
_LONGEST = 1000


def dpkg(left: str, right: str) -> int:
    """Compare as deb-version(7) says. Raises ValueError for what is no version of Debian."""
    for version in (left, right):
        if len(version) > _LONGEST or not _DPKG.fullmatch(version):
            raise ValueError(f"{version[:60]!r} is no version of Debian")
    if left == right or dpkg_database.newer(left, right):
        return int(left != right)
    return -dpkg_database.newer(right, left)


def pkgsrc(left: str, right: str) -> int:
    """Compare as pkg_info(1) says under "package wildcards"; any text has a place. Raises ValueError for one
    that is too long to be a version."""
    if len(left) > _LONGEST or len(right) > _LONGEST:
        raise ValueError("a version is too long")
    # An empty version has no parts, like "0", while `newer` takes it for none at all.
    left, right = left or "0", right or "0"
    return pkgsrc_versions.newer(left, right) - pkgsrc_versions.newer(right, left)
