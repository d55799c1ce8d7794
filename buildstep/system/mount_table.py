"""The table of mounts: /proc/PID/mountinfo on Linux (proc(5)), /etc/mnttab on illumos (mnttab(5))."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from buildstep.system import host

PROC = Path("/proc")

MNTTAB = Path("/etc/mnttab")
"""The table on illumos: source, mount point, type, options and time, separated by tabs."""


class Mount(NamedTuple):
    """One mount. source: what is mounted, as the kernel names it; point: where, an absolute path.

    root: the directory of the file system that is seen there; kind: of file system; options: the file
    system's own. These three are empty on illumos.
    """

    source: str
    point: str
    root: str = ""
    kind: str = ""
    options: str = ""


def mounts(process: str = "self") -> list[Mount]:
    """Return all mounts that a process sees, the first mounted first. Raises OSError.

    process: a process id; illumos has one table for all processes of a zone.
    """
    found = []
    on_illumos = host.HERE.mount_commands
    table = MNTTAB if on_illumos else PROC / process / "mountinfo"
    for row in table.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]:
        if on_illumos:
            source, point, *_ = row.split("\t")
            found.append(Mount(source, point))
        else:
            fields, _, rest = row.partition(" - ")
            root, point = map(_unescape, fields.split(" ")[3:5])
            kind, source, options = map(_unescape, rest.split(" ")[:3])
            found.append(Mount(source, point, root, kind, options))
    return found


def mount_points(below: Path | str = "/") -> list[str]:
    """Return the mount points at or below a path as this process sees them, the last mounted first."""
    top = os.path.realpath(below).rstrip("/")
    points = [mount.point for mount in mounts()]
    return [point for point in points if point == top or point.startswith(top + "/")][::-1]


def source_at(point: str) -> str:
    """Return the source of the topmost mount at this path; empty if nothing is mounted there."""
    return next((mount.source for mount in reversed(mounts()) if mount.point == point), "")


def kind_at(path: Path) -> str:
    """Return the kind of file system that a path is on; empty if it is not known."""
    found = [mount for mount in mounts() if path.is_relative_to(mount.point)]
    return max(found, key=lambda mount: len(mount.point)).kind if found else ""


def _unescape(text: str) -> str:
    r"""Return a field as it is: the kernel writes white space, `\` and `#` as `\` and three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
