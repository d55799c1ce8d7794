"""Who holds a mounted dataset: processes with it as cwd or root, with open files, or with a mount of it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from buildstep.system import host

_LIMIT = 10
"""Processes that an error names."""


def holders(sources: Sequence[str]) -> list[str]:
    """A phrase for each process that holds a mount of these sources, as /proc/PID/mountinfo calls them.

    Processes in other mount namespaces are seen as well; other users' only by root.
    """
    found = []
    namespaces: dict[str, dict[str, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            space = os.readlink(folder / "ns/mnt")
            if space not in namespaces:
                namespaces[space] = _mounts(folder, sources)
            uses = list(_uses(folder, namespaces[space]))
            if uses:
                found.append(f"process {folder.name} ({_name(folder)}): {', '.join(uses[:3])}")
    return [*found[:_LIMIT], f"and {len(found) - _LIMIT} more"] if len(found) > _LIMIT else found


def mounts_of(sources: Sequence[str]) -> list[str]:
    """Where our own mount namespace has these sources mounted, the last mounted first."""
    if host.HERE.mount_commands:
        return [point for source, point in host.mount_table() if source in sources][::-1]
    return list(_mounts(Path("/proc/self"), sources).values())[::-1]


def _mounts(folder: Path, sources: Sequence[str]) -> dict[str, str]:
    """Mount id to mount point."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for row in (folder / "mountinfo").read_text(errors="surrogateescape").splitlines():
            fields, _, rest = row.partition(" - ")
            ident, _, device, _, point, *_ = fields.split(" ")
            del device
            if _unescape(rest.split(" ")[1]) in sources:
                found[ident] = _unescape(point)
    return found


def _uses(folder: Path, mounts: dict[str, str]) -> Iterator[str]:
    if not mounts:
        return
    inside: Callable[[str], bool] = lambda path: any(  # noqa: E731
        path == point or path.startswith(point + "/") for point in mounts.values()
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
        yield f"has it mounted at {next(iter(mounts.values()))}"


def _name(folder: Path) -> str:
    return (folder / "comm").read_text(errors="replace").strip()


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
