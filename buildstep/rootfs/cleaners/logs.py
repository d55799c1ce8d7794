"""The cleaner of log files."""

from __future__ import annotations

import os
import stat

from buildstep.rootfs.cleaners.interface import Cleaning

_BUILD_LOGS = (
    "/var/log/*.gz", "/var/log/*.xz", "/var/log/*.old", "/var/log/*.[0-9]", "/var/log/apt/*",
    "/var/log/dpkg.log", "/var/log/alternatives.log", "/var/log/bootstrap.log", "/var/log/fontconfig.log",
    "/var/log/installer", "/var/log/journal/*", "/var/log/dnf*.log", "/var/log/yum.log",
    "/var/log/hawkey.log", "/var/log/pacman.log", "/var/log/apk.log",
)  # fmt: skip
"""Old logs, and those of the tools that a build runs."""


def clean(work: Cleaning) -> None:
    """Remove the logs of the build's own tools and empty the others, whose owner and mode matter."""
    work.remove_matching(*_BUILD_LOGS)
    for path in work.walk("/var/log"):
        found = work.root.lstat(path)
        if found is None or path in work.options.keep or not stat.S_ISREG(found.st_mode) or not found.st_size:
            continue
        fd = work.root.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)
        work.count(path, found.st_size)
