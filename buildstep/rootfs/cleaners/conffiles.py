"""The cleaner of what a package manager puts aside when two versions of a configuration file meet."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator

from buildstep.rootfs.cleaners.interface import Cleaning
from buildstep.rootfs.glob import fitting
from buildstep.system.root import Root

_DECIDED = (
    ".dpkg-dist", ".dpkg-old", ".dpkg-bak", ".ucf-dist", ".ucf-old", ".ucf-new", ".rpmnew", ".rpmsave",
    ".rpmorig", ".apk-new", ".pacnew", ".pacsave", ".pacorig",
)  # fmt: skip
"""Endings of the version that was not taken: dpkg's (and dpkg-maintscript-helper's .dpkg-bak), ucf's, rpm's,
apk's and pacman's, as their manuals have them."""

_PENDING = (".dpkg-new", ".dpkg-tmp", ".dpkg-remove")
"""Endings of what dpkg works with until a package is configured; left where that broke off."""

_STATUS = "/var/lib/dpkg/status"
_UNFINISHED = re.compile(r"(?m)^Status: \S+ \S+ (?:unpacked|half-configured|half-installed)$")
_CONFFILE = re.compile(r"(?m)^ (/\S.*?) (?:[0-9a-f]{32}|newconffile)(?: .*)?$")
"""A line of the field Conffiles; see deb-conffiles(5)."""

_UCF = "/var/lib/ucf/hashfile"
_UCF_LINE = re.compile(r"(?m)^[0-9a-f]{32}  (/.+)$")


def clean(work: Cleaning) -> None:
    """Remove the versions of configuration files that are not in force, in /etc and beside every file that
    dpkg or ucf has for one. What dpkg still needs to configure an unpacked package stays."""
    status = _text(work.root, _STATUS)
    endings = _DECIDED if _UNFINISHED.search(status) else _DECIDED + _PENDING
    for path in work.walk("/etc"):
        if path.endswith(endings):
            work.remove(path)
    for path in _elsewhere(work.root, status):
        folder, _, name = path.rpartition("/")
        for found in fitting(work.root, folder, "*"):
            if found.removeprefix(f"{folder}/{name}") in endings:
                work.remove(found)


def _elsewhere(root: Root, status: str) -> Iterator[str]:
    """Yield the configuration files outside of /etc, by the databases of dpkg and ucf."""
    listed = {*_CONFFILE.findall(status), *_UCF_LINE.findall(_text(root, _UCF))}
    yield from sorted(path for path in listed if not path.startswith("/etc/"))


def _text(root: Root, path: str) -> str:
    """Return a database's text; empty where there is no such file."""
    found = root.lstat(path)
    if found is None or not stat.S_ISREG(found.st_mode):
        return ""
    return root.read(path).decode(errors="replace")
