"""A control group for the processes of a service, where one can be made: none leaves it unseen.

Only version 2, and only below the group that this process is in. Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
import time

from buildstep.services.runtime.proc import read_bytes

_SECONDS = 1.0


def own() -> str | None:
    """Return the directory of the group that this process is in; None where there is no version 2."""
    inner = next(
        (
            line[3:]
            for line in read_bytes("/proc/self/cgroup").decode(errors="surrogateescape").splitlines()
            if line.startswith("0::/")
        ),
        None,
    )
    if inner is None:
        return None
    for line in read_bytes("/proc/self/mountinfo").decode(errors="surrogateescape").splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            root, point = fields[3], fields[4]
            if inner == root or inner.startswith(root.rstrip("/") + "/"):
                return os.path.normpath(point + "/" + inner[len(root.rstrip("/")) :])
    return None


def make(name: str) -> str | None:
    """Make a group below ours, if it is not there; return its directory, None where none can be."""
    above = own()
    if above is None:
        return None
    path = os.path.join(above, name)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
        return path if os.access(os.path.join(path, "cgroup.procs"), os.W_OK) else None
    except OSError:
        return None


def enter(path: str, pid: int = 0) -> bool:
    """Move a process, or this one, into a group; return whether it could be done."""
    try:
        with open(os.path.join(path, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write(str(pid))
    except OSError:
        return False
    return True


def members(path: str | None) -> set[int]:
    """Return the processes of a group and of those below it."""
    if not path:
        return set()
    found: set[int] = set()
    for folder, _, _ in os.walk(path):
        words = read_bytes(os.path.join(folder, "cgroup.procs")).split()
        found |= {int(word) for word in words}
    return found


def kill(path: str | None) -> None:
    """Kill all of a group at once, where the kernel can (5.14)."""
    if path:
        with (
            contextlib.suppress(OSError),
            open(os.path.join(path, "cgroup.kill"), "w", encoding="ascii") as file,
        ):
            file.write("1")


def remove(path: str | None) -> None:
    """Remove a group that is empty; its last process may take a moment to leave."""
    end = time.monotonic() + _SECONDS
    while path and os.path.isdir(path):
        with contextlib.suppress(OSError):
            for folder, _, _ in os.walk(path, topdown=False):
                os.rmdir(folder)
            return
        if time.monotonic() > end:
            return
        time.sleep(0.01)
