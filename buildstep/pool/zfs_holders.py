"""Who holds a mounted dataset: processes with it as cwd or root, with open files, or with a mount of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from buildstep.system import mount_table

_LIMIT = 10
"""Processes that an error names."""


def holders(sources: Sequence[str]) -> list[str]:
    """A phrase for each process that holds a mount of these sources, as /proc/PID/mountinfo calls them.

    Processes in other mount namespaces are seen as well; other users' only by root.
    """
    found = []
    namespaces: dict[str, list[str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            space = os.readlink(folder / "ns/mnt")
            if space not in namespaces:
                namespaces[space] = mounts_of(sources, folder.name)
            uses = list(_uses(folder, namespaces[space]))
            if uses:
                found.append(f"process {folder.name} ({_name(folder)}): {', '.join(uses[:3])}")
    return [*found[:_LIMIT], f"and {len(found) - _LIMIT} more"] if len(found) > _LIMIT else found


def mounts_of(sources: Sequence[str], process: str = "self") -> list[str]:
    """Return where a process (by default this one) has these sources mounted, the last mounted first."""
    return [mount.point for mount in mount_table.mounts(process) if mount.source in sources][::-1]


def _uses(folder: Path, points: Sequence[str]) -> Iterator[str]:
    if not points:
        return
    inside: Callable[[str], bool] = lambda path: any(  # noqa: E731
        path == point or path.startswith(point + "/") for point in points
    )
    told = False
    for link, what in (
        ("cwd", "works in it"),
        ("root", "is in a chroot of it"),
        ("exe", "runs a program of it"),
    ):
        with contextlib.suppress(OSError):
            if inside(os.readlink(folder / link)):
                told = True
                yield what
    with contextlib.suppress(OSError):
        for name in os.listdir(folder / "fd"):
            with contextlib.suppress(OSError):
                path = os.readlink(folder / "fd" / name)
                if inside(path):
                    told = True
                    yield f"has {path} open"
    if not told:
        yield f"has it mounted at {points[-1]}"


def _name(folder: Path) -> str:
    return (folder / "comm").read_text(errors="replace").strip()
