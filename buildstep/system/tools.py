"""Which package has a program that we start, for whoever lacks it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

DEBIAN: Mapping[str, str] = {
    "apt-get": "apt",
    "btrfs": "btrfs-progs",
    "buildah": "buildah",
    "bwrap": "bubblewrap",
    "cp": "coreutils",
    "docker": "docker.io",
    "find": "findutils",
    "git": "git",
    "mkfs.erofs": "erofs-utils",
    "mksquashfs": "squashfs-tools",
    "mount": "mount",
    "mmdebstrap": "mmdebstrap",
    "newgidmap": "uidmap",
    "newuidmap": "uidmap",
    "nsenter": "util-linux",
    "rsync": "rsync",
    "setpriv": "util-linux",
    "sh": "dash",
    "skopeo": "skopeo",
    "ssh": "openssh-client",
    "tar": "tar",
    "true": "coreutils",
    "umount": "mount",
    "unshare": "util-linux",
    "zfs": "zfsutils-linux",
    "zstd": "zstd",
}
"""Program to the Debian package that has it."""

ILLUMOS: Mapping[str, str] = {"git": "git", "rsync": "rsync"}
"""Program to the package of pkgsrc that has it. All others are the system's own."""


def getting(program: str, *, system: str = sys.platform) -> str:
    """Return how to install a program that is missing: a command, where the package is known."""
    if system.startswith("sunos"):
        if package := ILLUMOS.get(program):
            return f"pkgin install {package}"
        return f"{program} is part of SmartOS: is /usr/sbin in this zone?"
    package = DEBIAN.get(program, "")
    return f"apt-get install {package}" if package else f"install the package that has {program}"
